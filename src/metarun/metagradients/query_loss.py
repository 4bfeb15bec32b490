"""The gradient of the query loss after adaptation, through the inner loop."""

from __future__ import annotations

from typing import Any

import torch

from metarun.learners import GradientAdaptation, Graph, Learner, Scores
from metarun.metagradients.metagradient import Gradients
from metarun.metagradients.objective import Over, QueryLoss, Share, differentiate
from metarun.tasks import TaskBatch


class Exact(QueryLoss):
    """dL_query(φ(θ))/dθ with every derivative (MAML, Finn et al. 2017, arXiv:1703.03400, algorithm 1).

    Args:
        first_order_for: share of all meta-steps that are first-order, before the others are exact
            (derivative-order annealing, MAML++, arXiv:1810.09502, section 4).
        objective: of QueryLoss.
        anneal_for: of QueryLoss.
    """

    graph: Graph = "exact"

    def __init__(
        self,
        *,
        objective: Over = "final",
        anneal_for: Share = 0.0,
        first_order_for: Share = 0.0,
    ) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.first_order_for = first_order_for
        self.constant = self.constant and first_order_for == 0
        self.rematerialises = objective == "final" and self.graph == "exact"
        self._exact = True

    def begin(self, step: int, steps: int, seed: int) -> None:
        """Hear how far the training is."""
        super().begin(step, steps, seed)
        self._exact = self._done >= self.first_order_for

    def be_costly(self) -> None:
        """Take all derivatives, too."""
        super().be_costly()
        self._exact = True

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Differentiate the query loss of these tasks through their inner loops."""
        graph = self.graph if self._exact else "first_order"
        if self.objective == "final":
            scores = learner.scores(learner.adapt(tasks.support, graph), tasks.query)
            return differentiate(weight * scores["loss"], learner), scores
        assert isinstance(learner, GradientAdaptation)  # or check would have refused it
        steps = learner.loop.count(learner.training)
        terms = list(self.terms(learner, tasks, learner.trajectory(tasks.support, graph), steps))
        losses = torch.stack([loss for _, loss, _ in terms])
        return differentiate(weight * losses, learner), terms[-1][2]


class FirstOrder(Exact):
    """The same with the inner gradients taken as constants (first-order MAML, section 5.2 there).

    Args:
        objective: of QueryLoss.
        anneal_for: of QueryLoss.
    """

    graph = "first_order"
    second_order = False

    def __init__(self, *, objective: Over = "final", anneal_for: Share = 0.0) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
