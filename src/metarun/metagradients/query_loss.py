"""The gradient of the query loss after adaptation, through the inner loop."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from metarun.errors import ConfigError
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

    def __init__(self, *, objective: Over = "final", anneal_for: Share = 0.0) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)


class Truncated(QueryLoss):
    """Truncated back-propagation: derivatives end at every n-th inner step, and so does what is kept.

    Each window's losses are differentiated within it, and the gradients summed (Williams & Peng 1990; learned
    optimizers, Andrychowicz et al. 2016, arXiv:1606.04474, section 2.1, which moves the meta-parameters after
    every window; here after the last, so that a meta-step depends on nothing but its episodes).

    Args:
        window: n, the inner steps of a window.
        derivatives: `first_order` takes inner gradients as constants, as the paper does; or `exact`.
        objective: of QueryLoss; `final` leaves the last window only.
        anneal_for: of QueryLoss.
    """

    def __init__(
        self,
        *,
        window: PositiveInt = 20,
        derivatives: Literal["exact", "first_order"] = "first_order",
        objective: Over = "mean",
        anneal_for: Share = 0.0,
    ) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.window, self.derivatives = window, derivatives

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError for a learner without inner steps, or with nothing learned within the last."""
        if not isinstance(learner, GradientAdaptation):
            raise ConfigError("metagradient=truncated needs a learner that adapts by gradient: type algo=l2l")
        only_start = learner.trained_names() <= {f"model.{name}" for name in learner.adapted_names}
        through_start = learner.proximal and self.derivatives == "exact"
        cut = self.objective == "final" and self.window < learner.loop.steps
        if cut and only_start and not through_start:
            raise ConfigError(
                f"metagradient.window={self.window} and metagradient.objective=final: the last of "
                f"{learner.loop.steps} inner steps has no way back to the initialisation, which alone is "
                f"learned; type metagradient=first_order"
            )

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Differentiate each window of the inner loop by itself."""
        assert isinstance(learner, GradientAdaptation)  # or check would have refused it
        steps = learner.loop.count(learner.training)
        trajectory = learner.trajectory(tasks.support, self.derivatives, self.window)
        total: Gradients = {}
        losses: list[Tensor] = []
        scores: Scores = {}
        for step, loss, latest in self.terms(learner, tasks, trajectory, steps):
            losses.append(loss)
            scores = latest
            if step % self.window == 0 or step == steps:
                for name, gradient in differentiate(weight * torch.stack(losses), learner).items():
                    total[name] = total[name] + gradient if name in total else gradient
                losses = []
        return total, scores
