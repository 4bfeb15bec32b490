"""How work is executed: chunks, workers, memory, compilation, and the choice of the fastest engine."""
