"""One experiment: its config typed and checked, its objects assembled."""
