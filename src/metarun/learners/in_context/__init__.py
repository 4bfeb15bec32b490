"""Learners that read the support set: their networks take it as an input, and predict at once."""
