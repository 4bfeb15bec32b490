"""The contract of a meta-gradient: what the outer loop is told to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, Learner
from metarun.tasks import Scores, Tasks

Gradients = dict[str, Tensor]
"""By the name of a meta-parameter; one without a gradient is left out."""

AnyLearner = TypeVar("AnyLearner", bound=Learner[Any])


@dataclass(frozen=True)
class Progress:
    """Where in a run a meta-step is.

    Attributes:
        step: meta-steps before it.
        steps: of the whole run.
        seed: of the run.
    """

    step: int = 0
    steps: int = 1
    seed: int = 0

    @property
    def fraction(self) -> float:
        """How much of the run is done."""
        return self.step / max(self.steps, 1)


@dataclass(frozen=True)
class MetaStep:
    """What one update of the outer loop follows.

    Attributes:
        gradients: the meta-gradient by the name of each meta-parameter that has one.
        scores: the query scores of the tasks, [T].
        assignments: the new values of parameters that are no meta-parameters: what a rule keeps from task to
            task.
    """

    gradients: Gradients
    scores: Scores
    assignments: Gradients = field(default_factory=dict)

    @classmethod
    def sum(cls, parts: Iterable[MetaStep]) -> MetaStep:
        """Return the step of all tasks, given those of chunks of them, in their order."""
        gradients: Gradients = {}
        assignments: Gradients = {}
        scores = []
        for part in parts:
            for total, own in ((gradients, part.gradients), (assignments, part.assignments)):
                for name, value in own.items():
                    total[name] = total[name] + value if name in total else value
            scores.append(part.scores)
        together = {name: torch.cat([each[name].detach() for each in scores]) for name in scores[0]}
        return cls(gradients, together, assignments)

    def fill(self, learner: nn.Module) -> None:
        """Put the gradients into `.grad`."""
        parameters = dict(learner.named_parameters())
        for name, gradient in self.gradients.items():
            parameters[name].grad = gradient


class MetaGradient(ABC, Generic[AnyLearner]):
    """The mean over the tasks of a meta-batch of what each one's outcome says of the meta-parameters.

    It keeps nothing between calls: how far the training is, it is told each time.

    Attributes:
        learner: the kind of learner that it trains.
        constant: whether it is the same computation at every meta-step, so that it can be compiled.
        rematerialises: whether it can do with inner steps that are computed again in the backward pass.
        assigns: whether it also says what a rule keeps from task to task.
        steps_per_window: after how many inner steps the outer loop updates; None: after all of them.
        second_order: whether it needs second derivatives of the model.
    """

    learner: type[Any] = Learner
    constant = True
    rematerialises = False
    assigns = False
    steps_per_window: int | None = None
    second_order = True

    @abstractmethod
    def gradients(self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Return weight · Σ over tasks of each one's meta-gradient, and the query scores.

        Called by several threads at once.
        """

    def windows(
        self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Yield what each update of the outer loop in this meta-step follows: one, as a rule.

        The meta-parameters may change in between.
        """
        yield self.gradients(learner, tasks, progress, weight)

    def costliest(self, steps: int) -> int:  # noqa: ARG002  (for most all cost the same)
        """Return which of the meta-steps of a run takes the most time and memory."""
        return 0

    def check(self, learner: AnyLearner) -> None:
        """Raise ConfigError where this meta-gradient cannot train this learner."""


def check_trains_the_start(name: str, learner: GradientAdaptation) -> None:
    """Raise ConfigError where the meta-parameters are not an initialisation that adapts as a whole."""
    if learner.fresh is not None:
        raise ConfigError(
            f"@metagradient={name} trains the initialisation, and @learner.start=fresh learns none",
            "@learner.start=learned with @rule=sgd, or @metagradient=truncated",
        )
    if learner.loop.steps == 0:
        raise ConfigError(f"@metagradient={name} needs inner steps", "@loop.steps=1 or more")
    adapting = {f"model.{each}" for each in learner.adapted_names}
    if any(each.startswith("rule.") for each in learner.trained_names()):
        raise ConfigError(
            f"@metagradient={name} trains the initialisation only, and the update rule has weights of its "
            f"own",
            "@rule=sgd or @rule=adam, or @metagradient=exact",
        )
    if learner.trained_names() != adapting:
        raise ConfigError(
            f"@metagradient={name} trains an initialisation that adapts as a whole",
            "@learner.adapts=all, @learner.per_step=null and @model.context=0, or @metagradient=exact",
        )
