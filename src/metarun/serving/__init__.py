"""A small web page on this machine, where a learner can be tried."""
