"""Sweeps: many runs from one command, as a grid or a search, that can be resumed and end with a table."""
