"""Run directories; knows nothing of meta-learning."""
