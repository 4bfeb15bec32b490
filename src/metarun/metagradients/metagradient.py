"""The contract of a meta-gradient: what the outer loop is told to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch

from metarun.learners import Learner, Scores
from metarun.tasks import TaskBatch


class MetaGradient(ABC):
    """Fills `.grad` of the meta-parameters with the mean over the tasks of a meta-batch."""

    @abstractmethod
    def accumulate(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> Scores:
        """Add weight · Σ over tasks of each one's meta-gradient to `.grad`; return the query scores [T]."""

    def check(self, learner: Learner[Any]) -> None:  # noqa: B027  (most can train any learner)
        """Raise ConfigError where this meta-gradient cannot train this learner."""

    def __call__(self, learner: Learner[Any], batch: TaskBatch, chunk: int) -> Scores:
        """Process a meta-batch, `chunk` tasks at a time so that memory is bounded; return its scores [B]."""
        parts = [self.accumulate(learner, tasks, 1 / len(batch)) for tasks in batch.chunks(chunk)]
        return {name: torch.cat([part[name].detach() for part in parts]) for name in parts[0]}
