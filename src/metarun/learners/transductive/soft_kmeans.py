"""Soft k-means: prototypes that unlabelled examples, or the query set, refine."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Steps
from metarun.learners.embedding_learner import EmbeddingLearner, support_labels
from metarun.learners.similarities import squared_distances
from metarun.learners.soundness import PADDED_QUERIES
from metarun.tasks import Tasks


class Sums(NamedTuple):
    """Sums of each class's embeddings, [T, classes, features], and their numbers, [T, classes, 1].

    Attributes:
        features: of the support set.
        counts: of the support set.
        prototypes: refined by unlabelled examples; None: the query set is to refine them.
    """

    features: Tensor
    counts: Tensor
    prototypes: Tensor | None = None


class SoftKMeans(EmbeddingLearner):
    """Logits are −‖f(x) − p_k‖², with p_k the mean of support and softly assigned other embeddings.

    Ren et al. 2018, "Meta-Learning for Semi-Supervised Few-Shot Classification", arXiv:1803.00676, equations
    3 and 4. Training differentiates the refinement.

    Args:
        steps: refinements; 1 in the paper.
        refine: with which examples: `unlabelled` ones of the data, as in the paper, or the `query` set.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model"})
    reads_unlabelled = True

    def __init__(
        self,
        *,
        steps: Steps = 1,
        refine: Literal["query", "unlabelled"] = "query",
        model: nn.Module,
        **shared: Any,
    ) -> None:
        super().__init__(model=model, **shared)
        self.steps, self.refine = steps, refine

    @property
    def is_transductive(self) -> bool | None:
        """Whether a prediction depends on the other query examples: with those, or by batch norms."""
        return True if self.refine == "query" else super().is_transductive

    def known(self, tasks: Tasks) -> Tensor:
        """Return the inputs of the support sets, and of unlabelled examples if they are to refine."""
        if self.refine == "query" or tasks.unlabelled is None:
            return tasks.support.x
        return torch.cat([tasks.support.x, tasks.unlabelled.x], 1)

    def learn(self, features: Tensor, tasks: Tasks) -> Sums:
        """Make prototypes of the embedded support sets and, if there are any, unlabelled examples."""
        shots = len(tasks.support)
        sums = self.fit(features[:, :shots], support_labels(tasks, features.dtype))
        if features.shape[1] == shots:
            return sums
        return sums._replace(prototypes=self._refined(sums, features[:, shots:]))

    def fit(self, features: Tensor, labels: Tensor) -> Sums:
        """Return the sums of each class."""
        return Sums(labels.mT @ features, labels.sum(1)[..., None])

    def _refined(self, sums: Sums, features: Tensor) -> Tensor:
        """Return prototypes that examples [T, n, features] have refined."""
        prototypes = sums.features / sums.counts.clamp_min(1)
        for _ in range(self.steps):
            shares = (-squared_distances(features, prototypes)).softmax(2)
            added = sums.features + shares.mT @ features
            prototypes = added / (sums.counts + shares.sum(1)[..., None])
        return prototypes

    def classify(self, classifier: Sums, features: Tensor) -> Tensor:
        """Return logits, [T, n, classes]; if query sets refine, of a whole one."""
        prototypes = classifier.prototypes
        return -squared_distances(
            features, self._refined(classifier, features) if prototypes is None else prototypes
        )

    def apart(self, tasks: Tasks) -> str:
        """Say why tasks of different sizes must be computed one after another: also for query sets."""
        padded = self.refine == "query" and tasks.query.mask is not None
        return PADDED_QUERIES if padded else super().apart(tasks)

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError as EmbeddingLearner does, and where there is nothing to refine with."""
        if self.refine == "unlabelled" and tasks.unlabelled is None:
            raise ConfigError(
                "@learner.refine=unlabelled: the data has no unlabelled examples", "@source.unlabelled=5"
            )
        super().check(tasks)
