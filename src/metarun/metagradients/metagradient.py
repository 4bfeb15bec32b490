"""The contract of a meta-gradient: what the outer loop is told to do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, Learner, Scores
from metarun.system.workers import Workers
from metarun.tasks import TaskBatch

Gradients = dict[str, Tensor]
"""By the name of a meta-parameter; one without a gradient is left out."""


def cut(
    batch: TaskBatch, chunk: int, workers: Workers | None, of: int | None
) -> tuple[float, Workers, Iterator[TaskBatch]]:
    """Return a task's weight in a meta-batch of `of` tasks, the workers, and the chunks of this part of it.

    Chunks have `chunk` tasks at most, are one a worker at least, and as equal as that goes.
    """
    tasks, workers = len(batch), workers or Workers(1)
    most = min(chunk, math.ceil(tasks / workers.count))
    return 1 / (of or tasks), workers, batch.chunks(math.ceil(tasks / math.ceil(tasks / most)))


class MetaGradient(ABC):
    """Fills `.grad` of the meta-parameters with the mean over the tasks of a meta-batch.

    Attributes:
        constant: whether it is the same computation at every meta-step, so that it can be compiled.
        rematerialises: whether it can do with inner steps that are computed again in the backward pass.
        carries: whether it also says how to move what a rule carries from task to task.
        moves_often: whether the outer loop may move more than once in a meta-step.
        second_order: whether it needs second derivatives of the model.
    """

    constant = True
    rematerialises = False
    carries = False
    moves_often = False
    second_order = True

    def begin(self, step: int, steps: int, seed: int) -> None:  # noqa: B027  (most do not care)
        """Hear which meta-step (0, 1, …) of how many comes next, and the run's seed."""

    @abstractmethod
    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Return weight · Σ over tasks of each one's meta-gradient, and the query scores [T].

        Called by several threads at once: it writes nothing that they share.
        """

    def be_costly(self) -> None:  # noqa: B027  (most are)
        """Take, until the next `begin`, as much time and memory as at any meta-step of the run."""

    def check(self, learner: Learner[Any]) -> None:  # noqa: B027  (most can train any learner)
        """Raise ConfigError where this meta-gradient cannot train this learner."""

    def __call__(
        self,
        learner: Learner[Any],
        batch: TaskBatch,
        chunk: int,
        workers: Workers | None = None,
        of: int | None = None,
    ) -> Scores:
        """Process a meta-batch, at most `chunk` tasks a time and worker so that memory is bounded.

        Args:
            learner: whose meta-parameters get their gradient.
            batch: the tasks; of a process among several, its share of them.
            chunk: tasks in memory at once, for each worker.
            workers: chunks computed at once.
            of: tasks of the whole meta-batch, over which the mean is taken; those of `batch` by default.

        Returns:
            The query scores of all its tasks, [B].

        Raises:
            ConfigError: no meta-parameter has a gradient.
        """
        weight, workers, chunks = cut(batch, chunk, workers, of)
        # Summed in the order of the chunks, whichever worker is ready first: the same bits every time.
        return self.fill(learner, workers.map(lambda tasks: self.gradients(learner, tasks, weight), chunks))

    def moves(
        self,
        learner: Learner[Any],
        batch: TaskBatch,
        chunk: int,
        workers: Workers | None = None,
        of: int | None = None,
    ) -> Iterator[Scores]:
        """Fill `.grad` and yield the scores, for each time that the outer loop moves in this meta-step.

        Once, where nothing else is said; the arguments are those of a call.
        """
        yield self(learner, batch, chunk, workers, of)

    @staticmethod
    def fill(learner: Learner[Any], chunks: Iterable[tuple[Gradients, Scores]]) -> Scores:
        """Add the gradients of chunks of tasks to `.grad`, and return the scores of them all.

        Raises:
            ConfigError: no meta-parameter has a gradient.
        """
        parameters = dict(learner.named_parameters())
        scores = []
        for gradients, part in chunks:
            for name, gradient in gradients.items():
                p = parameters[name]
                p.grad = gradient if p.grad is None else p.grad + gradient
            scores.append(part)
        if all(p.grad is None for p in parameters.values()):
            raise ConfigError(
                "nothing that is learned has a part in the query loss: type inner.steps=1 or more, or "
                "another metagradient, inner or algo.adapts"
            )
        return {name: torch.cat([part[name].detach() for part in scores]) for name in scores[0]}


def check_trains_the_start(name: str, learner: Learner[Any]) -> GradientAdaptation:
    """Return a learner all of whose meta-parameters are an initialisation that adapts as a whole.

    Raises:
        ConfigError: it learns anything else, or nothing.
    """
    if not isinstance(learner, GradientAdaptation):
        raise ConfigError(f"metagradient={name} needs a learner that adapts by gradient: type algo=maml")
    if learner.fresh is not None:
        raise ConfigError(
            f"metagradient={name} trains the initialisation, and algo.start=fresh learns none: type "
            f"algo.start=learned with inner=sgd, or metagradient=truncated"
        )
    if learner.loop.steps == 0:
        raise ConfigError(f"metagradient={name} needs inner steps: type inner.steps=1 or more")
    adapting = {f"model.{each}" for each in learner.adapted_names}
    if any(each.startswith("rule.") for each in learner.trained_names()):
        raise ConfigError(
            f"metagradient={name} trains the initialisation only, and inner's update rule has weights of its "
            f"own: type inner=sgd or inner=adam, or metagradient=exact"
        )
    if learner.trained_names() != adapting:
        raise ConfigError(
            f"metagradient={name} trains an initialisation that adapts as a whole: type algo.adapts=all, "
            f"algo.per_step=null and model.context=0, or metagradient=exact"
        )
    return learner
