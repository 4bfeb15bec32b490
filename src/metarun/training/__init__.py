"""The outer loop over time: its state, a run launched, the processes that train it."""
