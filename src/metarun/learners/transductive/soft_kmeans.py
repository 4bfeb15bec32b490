"""Soft k-means: prototypes refined by unlabelled examples or by the query set."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Steps
from metarun.learners.embedding_learner import EmbeddingLearner, support_labels
from metarun.learners.similarities import squared_distances
from metarun.learners.soundness import PADDED_QUERIES
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Tasks

_HIDDEN = 20
_LEAST = 1e-12  # lower limit of a variance in a denominator


class Sums(NamedTuple):
    """Sums over each class's support examples, and refined prototypes.

    Attributes:
        features: sum of embeddings, [T, classes, features].
        counts: number of examples, [T, classes, 1].
        prototypes: prototypes refined by unlabelled examples; None: the query set refines them later.
    """

    features: Tensor
    counts: Tensor
    prototypes: Tensor | None = None


class SoftKMeans(EmbeddingLearner):
    """Logits are −‖f(x) − p_k‖², with p_k the mean of support examples and softly assigned other examples.

    Ren et al. 2018, "Meta-Learning for Semi-Supervised Few-Shot Classification", arXiv:1803.00676, equations
    3 and 4. Training differentiates the refinement.

    There are two methods for unlabelled examples of other classes. `cluster` (section 3.1.2) adds a cluster
    with the prototype 0 and a learned radius r; shares are proportional to exp(−‖f(x)‖² / r² − log r) for the
    cluster and to exp(−‖f(x) − p_k‖²) for a class. `masked` (section 3.1.3) multiplies the shares of a class
    by sigmoid(−γ_k (d̃ − β_k)). d̃ is the squared distance to p_k divided by its mean over the examples, and
    a perceptron computes β_k and γ_k from minimum, maximum, variance, skewness and kurtosis of d̃.

    Args:
        steps: number of refinements; 1 in the paper.
        refine: the examples to refine with: `unlabelled` examples, as in the paper, or the `query` set.
        distractors: method for examples of other classes: `none`, `cluster` or `masked`.
        seed: seeds the perceptron's initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model", "seed", "seeding"})
    reads_unlabelled = True

    def __init__(
        self,
        *,
        steps: Steps = 1,
        refine: Literal["query", "unlabelled"] = "query",
        distractors: Literal["none", "cluster", "masked"] = "none",
        model: nn.Module,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(model=model, **shared)
        self.steps, self.refine, self.distractors = steps, refine, distractors
        self.log_radius = nn.Parameter(torch.zeros(())) if distractors == "cluster" else None
        self.thresholds: nn.Module | None = None
        if distractors == "masked":
            with Streams(seed, seeding).drawing("learner"):
                self.thresholds = nn.Sequential(nn.Linear(5, _HIDDEN), nn.Tanh(), nn.Linear(_HIDDEN, 2))

    @property
    def is_transductive(self) -> bool | None:
        """Whether a prediction depends on other query examples, by refinement or by batch norms."""
        return True if self.refine == "query" else super().is_transductive

    def known(self, tasks: Tasks) -> Tensor:
        """Return the inputs of the support sets and, with `refine: unlabelled`, of unlabelled examples."""
        if self.refine == "query" or tasks.unlabelled is None:
            return tasks.support.x
        return torch.cat([tasks.support.x, tasks.unlabelled.x], 1)

    def learn(self, features: Tensor, tasks: Tasks) -> Sums:
        """Make prototypes from the embedded support sets and, if there are any, unlabelled examples."""
        shots = len(tasks.support)
        sums = self.fit(features[:, :shots], support_labels(tasks, features.dtype))
        if features.shape[1] == shots:
            return sums
        return sums._replace(prototypes=self._refined(sums, features[:, shots:]))

    def fit(self, features: Tensor, labels: Tensor) -> Sums:
        """Return the sums of each class."""
        return Sums(labels.mT @ features, labels.sum(1)[..., None])

    def _refined(self, sums: Sums, features: Tensor) -> Tensor:
        """Return prototypes refined by examples [T, n, features]."""
        prototypes = sums.features / sums.counts.clamp_min(1)
        for _ in range(self.steps):
            shares = self._shares(features, squared_distances(features, prototypes))
            added = sums.features + shares.mT @ features
            prototypes = added / (sums.counts + shares.sum(1)[..., None])
        return prototypes

    def _shares(self, features: Tensor, distances: Tensor) -> Tensor:
        """Return the share of each class in each example, [T, n, classes]."""
        if self.log_radius is not None:
            own = features.square().sum(2, keepdim=True) / (2 * self.log_radius).exp() + self.log_radius
            return torch.cat([-distances, -own], 2).softmax(2)[..., :-1]
        shares = (-distances).softmax(2)
        if self.thresholds is None:
            return shares
        relative = distances / distances.mean(1, keepdim=True)
        beta, gamma = self.thresholds(_shape_of(relative)).unbind(-1)  # [T, classes] each
        return shares * torch.sigmoid(-gamma[:, None] * (relative - beta[:, None]))

    def classify(self, classifier: Sums, features: Tensor) -> Tensor:
        """Return logits [T, n, classes]; with `refine: query`, features must be whole query sets."""
        prototypes = classifier.prototypes
        return -squared_distances(
            features, self._refined(classifier, features) if prototypes is None else prototypes
        )

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: also padding of query sets."""
        padded = self.refine == "query" and tasks.query.mask is not None
        return PADDED_QUERIES if padded else super().apart(tasks)

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError as EmbeddingLearner does, and if there are no examples to refine with."""
        if self.refine == "unlabelled" and tasks.unlabelled is None:
            raise ConfigError(
                "@learner.refine=unlabelled: the data has no unlabelled examples", "@source.unlabelled=5"
            )
        super().check(tasks)


def _shape_of(values: Tensor) -> Tensor:
    """Return minimum, maximum, variance, skewness and kurtosis over n of values [T, n, k], [T, k, 5]."""
    centred = values - values.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    scale = variance.clamp_min(_LEAST).sqrt()
    skewness, kurtosis = centred.pow(3).mean(1) / scale**3, centred.pow(4).mean(1) / scale**4
    return torch.stack([values.amin(1), values.amax(1), variance, skewness, kurtosis], -1)
