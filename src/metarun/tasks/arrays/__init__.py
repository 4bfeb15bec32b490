"""A user's own numbers: arrays and tables with labels, or with targets of many small tasks."""
