"""TIM: class weights that maximise the mutual information of queries and their predicted labels."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from metarun.fields import Steps
from metarun.learners.baselines.transformed import Transform
from metarun.learners.embedding_learner import class_means
from metarun.learners.metric.matchingnet import Memory
from metarun.learners.similarities import cosines, squared_distances
from metarun.learners.transductive.transductive import Transductive
from metarun.rules import Adam

Temperature = Annotated[float, Field(gt=0, lt=1e6)]


class TIM(Transductive):
    """Logits are −τ/2 ‖f(x) − w_k‖²; the weights w minimise λ CE(support) − β H(Y) + α H(Y | X).

    The weights start from the class means.

    Boudiaf, Ziko, Rony, Dolz, Piantanida & Ben Ayed 2020, "Transductive Information Maximization for Few-Shot
    Learning", arXiv:2008.11297, equations 1 to 3, by gradient descent (TIM-GD): Adam on the weights. H(Y) is
    the entropy of the queries' mean prediction, which favours balanced query sets.

    Args:
        steps: steps of Adam; 1,000 in the paper.
        lr: rate of Adam.
        cross_entropy: λ.
        marginal: β, 1 in the paper.
        conditional: α.
        temperature: τ.
        similarity: `euclidean`, as published; or `cosine`: logits are τ cos(f(x), w_k).
        transform: `none`, `l2` or `centred_l2`; see Transformed.
        **shared: see Pretrained.
    """

    for_tests = frozenset(
        {"steps", "lr", "cross_entropy", "marginal", "conditional", "temperature", "similarity", "transform"}
    )

    def __init__(
        self,
        *,
        steps: Steps = 1000,
        lr: NonNegativeFloat = 1e-4,
        cross_entropy: NonNegativeFloat = 0.1,
        marginal: NonNegativeFloat = 1.0,
        conditional: NonNegativeFloat = 0.1,
        temperature: Temperature = 15.0,
        similarity: Literal["euclidean", "cosine"] = "euclidean",
        transform: Transform = "l2",
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform, **shared)
        self.steps, self.lr, self.temperature, self.similarity = steps, lr, temperature, similarity
        self.cross_entropy, self.marginal, self.conditional = cross_entropy, marginal, conditional

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the support set."""
        return Memory(features, labels)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return the logits of a whole query set, [T, n, classes]."""
        support = Memory(classifier.features.detach(), classifier.labels)
        query, rule = features.detach(), Adam(lr=self.lr)
        weights = {"weight": class_means(*support)}
        state = rule.init(weights)
        for step in range(self.steps):
            with torch.enable_grad():
                weight = weights["weight"].detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.losses(weight, support, query).sum(), weight)
            weights, state = rule.update({"weight": weight.detach()}, {"weight": gradient}, state, step)
        return self._logits(weights["weight"].detach(), features)

    def losses(self, weight: Tensor, support: Memory, query: Tensor) -> Tensor:
        """Return each task's loss, [T], for weights [T, classes, features]."""
        counts = support.labels.sum((1, 2))
        support_log = self._logits(weight, support.features).log_softmax(2)
        cross_entropy = -(support.labels * support_log).sum((1, 2)) / counts
        query_log = self._logits(weight, query).log_softmax(2)
        conditional = -(query_log.exp() * query_log).sum(2).mean(1)
        mean = query_log.exp().mean(1)
        marginal = -torch.special.xlogy(mean, mean).sum(1)
        information: Tensor = self.marginal * marginal - self.conditional * conditional
        return self.cross_entropy * cross_entropy - information

    def _logits(self, weight: Tensor, features: Tensor) -> Tensor:
        if self.similarity == "cosine":
            return self.temperature * cosines(features, weight)
        return -self.temperature / 2 * squared_distances(features, weight)
