"""`metarun bench`: metarun against other ways to compute the same meta-gradient, a process each."""
