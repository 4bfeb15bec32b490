"""Sweeps: many runs from one command, resumed, compared, and searched."""
