"""LaplacianShot: neighbouring queries get similar labels."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.fields import Count, Steps
from metarun.learners.baselines.transformed import Transform
from metarun.learners.embedding_learner import class_means
from metarun.learners.metric.matchingnet import Memory
from metarun.learners.similarities import squared_distances
from metarun.learners.transductive.bdcspn import rectified
from metarun.learners.transductive.transductive import Transductive


class LaplacianShot(Transductive):
    """Soft labels y of the queries minimise Σ y_q · a_q − λ/2 Σ w(q, p) y_q · y_p − entropy(y).

    Ziko, Dolz, Granger & Ben Ayed 2020, "Laplacian Regularized Few-Shot Learning", arXiv:2006.15486, equation
    1 and algorithm 1: y_q ← softmax(−a_q + λ Σ_p w(q, p) y_p), with a_q the squared distances to the
    prototypes, and w(q, p) = 1 where p is one of the nearest neighbours of q. Logits are log y.

    Args:
        steps: number of bound updates; at most 20 in the authors' code.
        neighbours: k, which counts the query itself, as in the authors' code: k − 1 other queries are
            neighbours.
        strength: λ; the authors choose it on validation tasks, and easyfsl uses 0.7.
        rectify: whether prototypes are first rectified as in BD-CSPN, with ε = 1 and all queries.
        transform: `none`, `l2` or `centred_l2`; see Transformed.
        **shared: see Pretrained.
    """

    for_tests = frozenset({"steps", "neighbours", "strength", "rectify", "transform"})

    def __init__(
        self,
        *,
        steps: Steps = 20,
        neighbours: Count = 3,
        strength: NonNegativeFloat = 0.7,
        rectify: bool = True,
        transform: Transform = "centred_l2",
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform, **shared)
        self.steps, self.neighbours, self.strength, self.rectify = steps, neighbours, strength, rectify

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the support set."""
        return Memory(features, labels)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return the logits of a whole query set, [T, n, classes]."""
        if self.rectify:
            prototypes = rectified(classifier, features, epsilon=1.0, most=None)
        else:
            prototypes = class_means(classifier.features, classifier.labels)
        unary = -squared_distances(features, prototypes)
        affinity = nearest(features, self.neighbours)
        logits = unary
        for _ in range(self.steps):
            logits = unary + self.strength * (affinity @ logits.softmax(2))
        return logits


def nearest(features: Tensor, neighbours: int) -> Tensor:
    """Return w [T, n, n]: w(q, p) = 1 if p ≠ q is among the `neighbours` examples that are nearest to q."""
    distances = squared_distances(features, features)
    distances.diagonal(dim1=1, dim2=2).fill_(
        -1.0
    )  # an example is nearest to itself, even with rounding errors
    chosen = distances.topk(min(neighbours, features.shape[1]), dim=2, largest=False).indices[:, :, 1:]
    return torch.zeros_like(distances).scatter_(2, chosen, 1.0)
