"""One experiment: its typed and checked config, and the objects built from it."""
