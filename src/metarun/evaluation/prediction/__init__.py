"""What was learned, used on a person's own examples."""
