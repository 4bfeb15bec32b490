"""The contract of a meta-gradient: what the outer loop is told to do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from metarun.learners import Learner, Scores
from metarun.tasks import TaskBatch
from metarun.workers import Workers

Gradients = dict[str, Tensor]
"""By the name of a meta-parameter; one without a gradient is left out."""


def even_size(tasks: int, chunk: int, workers: Workers) -> int:
    """Return the size of chunks of `chunk` tasks at most, a worker each at least, as equal as that goes."""
    most = min(chunk, math.ceil(tasks / workers.count))
    return math.ceil(tasks / math.ceil(tasks / most))


class MetaGradient(ABC):
    """Fills `.grad` of the meta-parameters with the mean over the tasks of a meta-batch.

    Attributes:
        constant: whether it is the same computation at every meta-step, so that it can be compiled.
    """

    constant = True

    def begin(self, step: int, steps: int, seed: int) -> None:  # noqa: B027  (most do not care)
        """Hear which meta-step (0, 1, …) of how many comes next, and the run's seed."""

    @abstractmethod
    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Return weight · Σ over tasks of each one's meta-gradient, and the query scores [T].

        Called by several threads at once: it writes nothing that they share.
        """

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
        """
        weight = 1 / (of or len(batch))
        workers = workers or Workers(1)
        size = even_size(len(batch), chunk, workers)
        parameters = dict(learner.named_parameters())
        scores = []
        # Summed in the order of the chunks, whichever worker is ready first: the same bits every time.
        for gradients, part in workers.map(
            lambda tasks: self.gradients(learner, tasks, weight), batch.chunks(size)
        ):
            for name, gradient in gradients.items():
                p = parameters[name]
                p.grad = gradient if p.grad is None else p.grad + gradient
            scores.append(part)
        return {name: torch.cat([part[name].detach() for part in scores]) for name in scores[0]}
