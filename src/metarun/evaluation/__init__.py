"""Testing a learner: curves on fixed tasks, streams, comparisons, a run reopened."""
