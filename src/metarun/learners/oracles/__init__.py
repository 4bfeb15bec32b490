"""Predictors that know how tasks were drawn: what a learner can reach at best."""
