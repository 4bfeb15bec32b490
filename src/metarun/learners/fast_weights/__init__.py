"""Learners whose networks write the weights of others: heads and layers of a task's own."""
