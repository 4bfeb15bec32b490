"""The gradient of the query loss after adaptation, through the inner loop."""

from __future__ import annotations

import math
from typing import Any

import torch

from metarun.learners import Derivatives, GradientAdaptation, Learner
from metarun.metagradients.metagradient import MetaStep, Progress
from metarun.metagradients.objective import Fraction, Objective, QueryLoss, differentiate
from metarun.tasks import Tasks


class Exact(QueryLoss[Learner[Any]]):
    """dL_query(φ(θ))/dθ with every derivative (MAML, Finn et al. 2017, arXiv:1703.03400, algorithm 1).

    Args:
        first_order_for: fraction of the meta-steps, from the first, that are first-order; later meta-steps
            are exact (derivative-order annealing, MAML++, arXiv:1810.09502, section 4).
        objective: see QueryLoss.
        anneal_for: see QueryLoss.
    """

    derivatives: Derivatives = "exact"

    def __init__(
        self,
        *,
        objective: Objective = "final",
        anneal_for: Fraction = 0.0,
        first_order_for: Fraction = 0.0,
    ) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.first_order_for = first_order_for
        self.constant = self.constant and first_order_for == 0
        self.rematerialises = objective == "final" and self.derivatives == "exact"
        if first_order_for or self.derivatives == "first_order":
            self.learner = GradientAdaptation

    def costliest(self, steps: int) -> int:
        """Return the first exact meta-step; the last meta-step if none is exact."""
        return min(math.ceil(self.first_order_for * steps), max(0, steps - 1))

    def gradients(self, learner: Any, tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Differentiate the query loss of these tasks through their inner loops."""
        first_order = self.derivatives == "first_order" or progress.fraction < self.first_order_for
        options = {"derivatives": "first_order"} if first_order else {}
        visible = tasks.without_answers()
        if self.objective == "final":
            adapted = learner.adapt(visible, **options)
            scores = learner.scores(adapted, tasks)
            changes = {name: weight * change.sum(0) for name, change in learner.changes(adapted).items()}
            return MetaStep(differentiate(weight * scores["loss"], learner), scores, changes)
        terms = list(self.terms(learner, tasks, learner.trajectory(visible, **options), progress))
        losses = torch.stack([loss for _, loss, _ in terms])
        return MetaStep(differentiate(weight * losses, learner), terms[-1][2])


class FirstOrder(Exact):
    """`Exact`, but with inner gradients as constants (first-order MAML, arXiv:1703.03400, section 5.2).

    Args:
        objective: see QueryLoss.
        anneal_for: see QueryLoss.
    """

    derivatives: Derivatives = "first_order"
    second_order = False

    def __init__(self, *, objective: Objective = "final", anneal_for: Fraction = 0.0) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
