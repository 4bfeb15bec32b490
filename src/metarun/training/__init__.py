"""The outer loop over time: its state, launching a run, the processes that train it."""
