"""Meta-gradients of an inner loop that is divided into windows, such as truncated back-propagation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.learners import GradientAdaptation
from metarun.metagradients.metagradient import AnyLearner, Gradients, MetaStep, Progress
from metarun.metagradients.objective import Fraction, Objective, QueryLoss, differentiate
from metarun.tasks import Scores, Tasks

Update = Literal["horizon", "window"]


class Windowed(QueryLoss[AnyLearner]):
    """A meta-gradient that is the sum of the meta-gradients of the inner loop's windows.

    Args:
        window: inner steps of a window; None: all inner steps.
        update: when the outer loop updates. `window`: after every window, with the gradient of this window,
            so that later windows use the updated meta-parameters (as in the papers). `horizon`: once after
            all windows, with the sum of their gradients. In both cases one meta-step is one inner loop.
        objective: see QueryLoss.
        anneal_for: see QueryLoss.
    """

    def __init__(
        self, *, window: int | None, update: Update, objective: Objective, anneal_for: Fraction
    ) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.window, self.update = window, update
        self.steps_per_window = window if update == "window" else None
        self.constant = self.constant and update == "horizon"

    @abstractmethod
    def each_window(
        self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Yield the meta-gradient of every window that contributes to the objective."""

    def gradients(self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Add up the gradients of all windows; the scores are those of the last window."""
        total: Gradients = {}
        scores: Scores = {}
        for window in self.each_window(learner, tasks, progress, weight):
            scores = window.scores
            for name, gradient in window.gradients.items():
                total[name] = total[name] + gradient if name in total else gradient
        return MetaStep(total, scores)

    def windows(
        self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Yield each window's meta-gradient if the outer loop updates after every window, else their sum."""
        if self.update == "window":
            yield from self.each_window(learner, tasks, progress, weight)
        else:
            yield from super().windows(learner, tasks, progress, weight)


class Truncated(Windowed[GradientAdaptation]):
    """Truncated back-propagation: the graph is cut after every n-th inner step.

    The losses of a window are differentiated only through the steps of the window (Williams & Peng 1990;
    learned optimizers, Andrychowicz et al. 2016, arXiv:1606.04474, section 2.1).

    Args:
        window: n, the inner steps of a window.
        update: see Windowed.
        derivatives: `first_order`: inner gradients are constants, as in the paper; or `exact`.
        objective: see QueryLoss; `final` uses the last window only.
        anneal_for: see QueryLoss.
    """

    def __init__(
        self,
        *,
        window: Size = 20,
        update: Update = "horizon",
        derivatives: Literal["exact", "first_order"] = "first_order",
        objective: Objective = "mean",
        anneal_for: Fraction = 0.0,
    ) -> None:
        super().__init__(window=window, update=update, objective=objective, anneal_for=anneal_for)
        self.learner = GradientAdaptation
        self.derivatives: Literal["exact", "first_order"] = derivatives
        self.second_order = derivatives == "exact"

    def check(self, learner: GradientAdaptation) -> None:
        """Raise ConfigError if only the last window counts and no meta-parameter acts within it."""
        assert self.window is not None
        only_start = learner.trained_names() <= {f"model.{name}" for name in learner.adapted_names}
        through_start = learner.proximal and self.derivatives == "exact"
        last_alone = self.objective != "mean" or self.update == "window"
        if last_alone and self.window < learner.loop.steps and only_start and not through_start:
            raise ConfigError(
                f"@metagradient.window={self.window}, @metagradient.objective={self.objective} and "
                f"@metagradient.update={self.update}: no derivative of the last of "
                f"{learner.loop.steps} inner steps reaches the initialisation, and nothing else is learned",
                "@metagradient=first_order, or @metagradient.objective=mean @metagradient.update=horizon",
            )

    def each_window(
        self, learner: GradientAdaptation, tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Differentiate each window of the inner loop separately."""
        assert self.window is not None
        trajectory = learner.trajectory(tasks.without_answers(), self.derivatives, self.window)
        losses: list[Tensor] = []
        for step, loss, scores in self.terms(learner, tasks, trajectory, progress):
            losses.append(loss)
            if step % self.window == 0 or step == learner.steps:
                gradients = differentiate(weight * torch.stack(losses), learner)
                losses = []
                yield MetaStep(gradients, {name: score.detach() for name, score in scores.items()})
