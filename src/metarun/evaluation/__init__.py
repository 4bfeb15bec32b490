"""Testing a learner: curves on fixed tasks, streams, comparisons, a run brought back."""
