"""Predictors that know the distribution of tasks, as upper bounds for learners."""
