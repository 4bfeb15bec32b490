"""Learning by gradient steps: one learner, and what it computes with."""
