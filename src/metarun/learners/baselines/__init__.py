"""Learners that are trained to tell all training classes apart, and get a new classifier for each task."""
