"""`metarun bench`: metarun against other ways to compute the same meta-gradient, each in its own process."""
