"""Learners whose networks generate weights of other networks: heads and layers for each task."""
