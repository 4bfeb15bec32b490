"""Learners that classify the query set of a task as a whole."""
