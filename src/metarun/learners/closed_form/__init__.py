"""Learners whose classifier is the solution of a problem in closed form, differentiated as such."""
