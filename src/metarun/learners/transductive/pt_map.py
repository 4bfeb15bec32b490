"""PT-MAP: an optimal transport of the queries to the classes."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from metarun.fields import Steps
from metarun.learners.baselines.transformed import Transform
from metarun.learners.embedding_learner import class_means
from metarun.learners.metric.matchingnet import Memory
from metarun.learners.similarities import squared_distances
from metarun.learners.transductive.transductive import Transductive

Power = Annotated[float, Field(gt=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[float, Field(gt=0, lt=1e6)]

# Sinkhorn's iterations end when the total of every query is 1 up to _TOLERANCE, or after _MOST iterations.
_TOLERANCE, _MOST = 1e-6, 1000


class PTMAP(Transductive):
    """Logits are the logarithm of a transport plan from queries to prototypes, updated in turns.

    Hu, Gripon & Pateux 2020, "Leveraging the Feature Distribution in Transfer-based Few-Shot Learning",
    arXiv:2006.03806, equations 1 to 6, algorithm 1. The plan gives every class the same number of queries, so
    it assumes a balanced query set: test it with unbalanced query sets, too.

    Args:
        steps: updates of the prototypes.
        rate: step size of prototypes towards the mean of the examples assigned to them.
        sharpness: λ of the plan's entropy; larger values give harder assignments.
        power: β of the power transform (f + ε)^β of non-negative embeddings.
        normalise: whether embeddings are divided by their length after the power transform, as in equation 1.
        transform: `none`, `l2` or `centred_l2`, before the power transform; see Transformed.
        **shared: see Pretrained.
    """

    for_tests = frozenset({"steps", "rate", "sharpness", "power", "normalise", "transform"})

    def __init__(
        self,
        *,
        steps: Steps = 10,
        rate: Rate = 0.2,
        sharpness: Scale = 10.0,
        power: Power = 0.5,
        normalise: bool = True,
        transform: Transform = "none",
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform, **shared)
        self.steps, self.rate, self.sharpness = steps, rate, sharpness
        self.power, self.normalise = power, normalise

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the support set, transformed."""
        return Memory(self._powers(features), labels)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return the logits of a whole query set, [T, n, classes]."""
        query = self._powers(features)
        prototypes = class_means(*classifier)
        every = torch.cat([classifier.features, query], 1)
        for _ in range(self.steps):
            shares = torch.cat([classifier.labels, self._log_plan(query, prototypes).exp()], 1)
            means = shares.mT @ every / shares.sum(1)[..., None]
            prototypes = prototypes + self.rate * (means - prototypes)
        return self._log_plan(query, prototypes)

    def _powers(self, features: Tensor) -> Tensor:
        powers = (features.relu() + 1e-6).pow(self.power)
        return F.normalize(powers, dim=2) if self.normalise else powers

    def _log_plan(self, query: Tensor, prototypes: Tensor) -> Tensor:
        return transport(self.sharpness * squared_distances(query, prototypes))


def transport(cost: Tensor) -> Tensor:
    """Return log P [T, n, k] of the plan P that minimises ⟨P, cost⟩ − entropy(P).

    Rows of P have the sum 1, columns n/k (Sinkhorn & Knopp 1967; Cuturi 2013, arXiv:1306.0895). The iteration
    uses logarithms to avoid underflow. Each task stops separately, so its plan does not depend on other
    tasks.

    Args:
        cost: [T, n, k].
    """
    of_class = math.log(cost.shape[1] / cost.shape[2])
    plan = -cost
    moving = torch.ones_like(plan[:, :1, :1], dtype=torch.bool)
    for _ in range(_MOST):
        rows = plan - plan.logsumexp(2, keepdim=True)
        columns = rows - rows.logsumexp(1, keepdim=True) + of_class
        plan = torch.where(moving, columns, plan)
        excess = (plan.logsumexp(2, keepdim=True).exp() - 1).abs().amax((1, 2), keepdim=True)
        moving = moving & (excess >= _TOLERANCE)
        if not moving.any():
            break
    return plan
