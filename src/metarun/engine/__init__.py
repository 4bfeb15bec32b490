"""How work is executed: which ways work, which is fastest, chunks, workers, memory, the compiler."""
