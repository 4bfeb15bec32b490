"""Meta-gradients of an inner loop that is cut into windows, and truncated back-propagation, one of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.learners import GradientAdaptation, Learner, Scores
from metarun.metagradients.metagradient import Gradients, cut
from metarun.metagradients.objective import Over, QueryLoss, Share, differentiate
from metarun.system.workers import Workers
from metarun.tasks import TaskBatch

Update = Literal["horizon", "window"]


class Windowed(QueryLoss):
    """The meta-gradient of an inner loop is the sum of those of its windows.

    Args:
        update: when the outer loop moves: after every `window`, by its own gradient, so that later windows
            see other meta-parameters (as the papers have it), or after the whole `horizon`, by the sum. A
            meta-step is a horizon in any case.
        objective: of QueryLoss.
        anneal_for: of QueryLoss.
    """

    def __init__(self, *, update: Update, objective: Over, anneal_for: Share) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.update = update
        self.moves_often = update == "window"
        self.constant = self.constant and not self.moves_often

    @abstractmethod
    def windows(
        self, learner: Learner[Any], tasks: TaskBatch, weight: float
    ) -> Iterator[tuple[Gradients, Scores]]:
        """Yield what `gradients` returns, of every window that has a part in the objective.

        The meta-parameters may change in between.
        """

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Add up the gradients of all windows; the scores are the last one's."""
        total: Gradients = {}
        scores: Scores = {}
        for gradients, scores in self.windows(learner, tasks, weight):  # noqa: B007  (those of the last)
            for name, gradient in gradients.items():
                total[name] = total[name] + gradient if name in total else gradient
        return total, scores

    def moves(
        self,
        learner: Learner[Any],
        batch: TaskBatch,
        chunk: int,
        workers: Workers | None = None,
        of: int | None = None,
    ) -> Iterator[Scores]:
        """Fill `.grad` once a window, of all chunks together, where the outer loop is to move after each."""
        if self.update == "horizon":
            yield from super().moves(learner, batch, chunk, workers, of)
            return
        weight, workers, parts = cut(batch, chunk, workers, of)
        # All chunks are in the same window: each keeps φ and the rule's state, but no graph.
        chunks = [self.windows(learner, tasks, weight) for tasks in parts]
        while True:
            found = [each for each in workers.map(lambda windows: next(windows, None), chunks) if each]
            if not found:
                return
            yield self.fill(learner, found)


class Truncated(Windowed):
    """Truncated back-propagation: derivatives end at every n-th inner step, and so does what is kept.

    Each window's losses are differentiated within it (Williams & Peng 1990; learned optimizers, Andrychowicz
    et al. 2016, arXiv:1606.04474, section 2.1).

    Args:
        window: n, the inner steps of a window.
        update: of Windowed.
        derivatives: `first_order` takes inner gradients as constants, as the paper does; or `exact`.
        objective: of QueryLoss; `final` leaves the last window only.
        anneal_for: of QueryLoss.
    """

    def __init__(
        self,
        *,
        window: Size = 20,
        update: Update = "horizon",
        derivatives: Literal["exact", "first_order"] = "first_order",
        objective: Over = "mean",
        anneal_for: Share = 0.0,
    ) -> None:
        super().__init__(update=update, objective=objective, anneal_for=anneal_for)
        self.window, self.derivatives = window, derivatives
        self.second_order = derivatives == "exact"

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError for a learner without inner steps, or with nothing learned within the last."""
        if not isinstance(learner, GradientAdaptation):
            raise ConfigError("metagradient=truncated needs a learner that adapts by gradient: type algo=l2l")
        only_start = learner.trained_names() <= {f"model.{name}" for name in learner.adapted_names}
        through_start = learner.proximal and self.derivatives == "exact"
        last_alone = self.objective != "mean" or self.update == "window"
        if last_alone and self.window < learner.loop.steps and only_start and not through_start:
            raise ConfigError(
                f"metagradient.window={self.window}, metagradient.objective={self.objective} and "
                f"metagradient.update={self.update}: the last of {learner.loop.steps} inner steps has no way "
                f"back to the initialisation, which alone is learned; type metagradient=first_order, or "
                f"metagradient.objective=mean metagradient.update=horizon"
            )

    def windows(
        self, learner: Learner[Any], tasks: TaskBatch, weight: float
    ) -> Iterator[tuple[Gradients, Scores]]:
        """Differentiate each window of the inner loop by itself."""
        assert isinstance(learner, GradientAdaptation)  # or check would have refused it
        steps = learner.loop.count(learner.training)
        trajectory = learner.trajectory(tasks.support, self.derivatives, self.window)
        losses: list[Tensor] = []
        for step, loss, scores in self.terms(learner, tasks, trajectory, steps):
            losses.append(loss)
            if step % self.window == 0 or step == steps:
                found = differentiate(weight * torch.stack(losses), learner)
                losses = []
                yield found, {name: each.detach() for name, each in scores.items()}
