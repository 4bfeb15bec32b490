"""The gradient of the query loss after adaptation, through the inner loop."""

from __future__ import annotations

from typing import Any

import torch

from metarun.learners import Graph, Learner, Scores
from metarun.metagradients.metagradient import Gradients, MetaGradient
from metarun.tasks import TaskBatch


class Exact(MetaGradient):
    """dL_query(φ(θ))/dθ with every derivative (MAML, Finn et al. 2017, arXiv:1703.03400, algorithm 1)."""

    graph: Graph = "exact"

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Differentiate the query loss of these tasks through their inner loops."""
        scores = learner.scores(learner.adapt(tasks.support, self.graph), tasks.query)
        parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        found = torch.autograd.grad(
            weight * scores["loss"].sum(), list(parameters.values()), allow_unused=True
        )
        return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}, scores


class FirstOrder(Exact):
    """The same with the inner gradients taken as constants (first-order MAML, section 5.2 there)."""

    graph = "first_order"
