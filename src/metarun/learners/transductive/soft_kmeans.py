"""Soft k-means: prototypes that the query set refines."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from metarun.fields import Steps
from metarun.learners.embedding_learner import EmbeddingLearner
from metarun.learners.similarities import squared_distances
from metarun.learners.soundness import PADDED_QUERIES
from metarun.tasks import Tasks


class Sums(NamedTuple):
    """Sums of each class's support embeddings, [T, classes, features], and their numbers, [T, classes, 1]."""

    features: Tensor
    counts: Tensor


class SoftKMeans(EmbeddingLearner):
    """Logits are −‖f(x) − p_k‖², with p_k the mean of support and softly assigned query embeddings.

    Ren et al. 2018, "Meta-Learning for Semi-Supervised Few-Shot Classification", arXiv:1803.00676, equations
    3 and 4, with the query set in the place of unlabelled examples. Training differentiates the refinement.

    Args:
        steps: refinements; 1 in the paper.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model"})

    def __init__(self, *, steps: Steps = 1, model: nn.Module, **shared: Any) -> None:
        super().__init__(model=model, **shared)
        self.steps = steps

    @property
    def is_transductive(self) -> bool:
        """True: a prediction depends on the other query examples."""
        return True

    def fit(self, features: Tensor, labels: Tensor) -> Sums:
        """Return the sums of each class."""
        return Sums(labels.mT @ features, labels.sum(1)[..., None])

    def classify(self, classifier: Sums, features: Tensor) -> Tensor:
        """Return the logits of a whole query set, [T, n, classes]."""
        prototypes = classifier.features / classifier.counts.clamp_min(1)
        for _ in range(self.steps):
            shares = (-squared_distances(features, prototypes)).softmax(2)
            sums = classifier.features + shares.mT @ features
            prototypes = sums / (classifier.counts + shares.sum(1)[..., None])
        return -squared_distances(features, prototypes)

    def apart(self, tasks: Tasks) -> str:
        """Say why tasks of different sizes must be computed one after another: also for query sets."""
        return PADDED_QUERIES if tasks.query.mask is not None else super().apart(tasks)
