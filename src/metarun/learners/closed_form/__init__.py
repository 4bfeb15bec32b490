"""Learners whose classifier solves an optimisation problem exactly; the solution is differentiated."""
