"""Learning by gradient steps: one learner and its parts."""
