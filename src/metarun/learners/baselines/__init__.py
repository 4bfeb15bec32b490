"""Learners that are pretrained to classify all training classes, and get a new classifier for each task."""
