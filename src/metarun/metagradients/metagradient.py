"""The interface of meta-gradients: the direction that the outer loop follows."""

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
"""Gradients by the name of the meta-parameter; meta-parameters without a gradient are left out."""

AnyLearner = TypeVar("AnyLearner", bound=Learner[Any])


@dataclass(frozen=True)
class Progress:
    """The position of a meta-step in a run.

    Attributes:
        step: number of meta-steps before this meta-step.
        steps: number of meta-steps of the whole run.
        seed: seed of the run.
    """

    step: int = 0
    steps: int = 1
    seed: int = 0

    @property
    def fraction(self) -> float:
        """The fraction of the run that is done."""
        return self.step / max(self.steps, 1)


@dataclass(frozen=True)
class MetaStep:
    """The result of a meta-gradient for one update of the outer loop.

    Attributes:
        gradients: the meta-gradient by the name of each meta-parameter that has one.
        scores: the query scores of the tasks, [T].
        assignments: changes to add to buffers, and to parameters that are not meta-parameters, by name. The
            state that a rule keeps from task to task changes to the mean of the tasks' final states.
    """

    gradients: Gradients
    scores: Scores
    assignments: Gradients = field(default_factory=dict)

    @classmethod
    def sum(cls, parts: Iterable[MetaStep]) -> MetaStep:
        """Return the step of all tasks from the steps of their chunks, in order."""
        gradients: Gradients = {}
        assignments: Gradients = {}
        scores = []
        for part in parts:
            for total, values in ((gradients, part.gradients), (assignments, part.assignments)):
                for name, value in values.items():
                    total[name] = total[name] + value if name in total else value
            scores.append(part.scores)
        all_scores = {name: torch.cat([values[name].detach() for values in scores]) for name in scores[0]}
        return cls(gradients, all_scores, assignments)

    def fill(self, learner: nn.Module) -> None:
        """Put the gradients into `.grad`."""
        parameters = dict(learner.named_parameters())
        for name, gradient in self.gradients.items():
            parameters[name].grad = gradient


class MetaGradient(ABC, Generic[AnyLearner]):
    """The direction of an outer update, as a mean over the tasks of a meta-batch.

    A meta-gradient has no state between calls; `progress` gives a call's position in the run.

    Attributes:
        learner: the class of learners that the meta-gradient trains.
        constant: whether the computation is the same at every meta-step, so that it can be compiled.
        rematerialises: whether the backward pass may recompute inner steps.
        assigns: whether a MetaStep includes the state that a rule keeps from task to task.
        steps_per_window: number of inner steps between outer updates; None: one update after all inner steps.
        second_order: whether second derivatives of the model are needed.
    """

    learner: type[Any] = Learner
    constant = True
    rematerialises = False
    assigns = False
    steps_per_window: int | None = None
    second_order = True

    @abstractmethod
    def gradients(self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float) -> MetaStep:
        """Return weight · the sum of the tasks' meta-gradients, and the query scores.

        Several threads call this method at once.
        """

    def windows(
        self, learner: AnyLearner, tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Yield the MetaStep of each outer update in this meta-step: one, unless overridden.

        The meta-parameters may change between two updates.
        """
        yield self.gradients(learner, tasks, progress, weight)

    def costliest(self, steps: int) -> int:  # noqa: ARG002  (most cost the same at every meta-step)
        """Return the index of the meta-step that takes the most time and memory."""
        return 0

    def check(self, learner: AnyLearner) -> None:
        """Raise ConfigError if this meta-gradient cannot train this learner."""


def check_trains_the_start(name: str, learner: GradientAdaptation) -> None:
    """Raise ConfigError unless the meta-parameters are an initialisation that adapts as a whole."""
    if learner.fresh is not None:
        raise ConfigError(
            f"@metagradient={name} trains the initialisation, and @learner.start=fresh learns none",
            "@learner.start=learned with @rule=sgd, or @metagradient=truncated",
        )
    if learner.loop.steps == 0:
        raise ConfigError(f"@metagradient={name} needs inner steps", "@loop.steps=1 or more")
    adapting = {f"model.{parameter}" for parameter in learner.adapted_names}
    if any(parameter.startswith("rule.") for parameter in learner.trained_names()):
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
