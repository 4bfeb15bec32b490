"""Learners whose networks take the support set as an input and predict in one forward pass."""
