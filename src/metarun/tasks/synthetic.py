"""The base class of task families with a formula: examples are computed from random draws, without files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from metarun.fields import Count, Counts, Interval, Seed
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import Loss, Metric, Scoring
from metarun.tasks.shots import Shots
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks


def stretch(uniform: Tensor, interval: Interval) -> Tensor:
    """Map numbers from [0, 1) to [low, high)."""
    low, high = interval
    return low + (high - low) * uniform


Pair = tuple[Tensor, Tensor]
"""Inputs and targets."""


class SyntheticSource(ABC):
    """Tasks computed from random numbers in float64, and returned in `dtype`.

    Args:
        shot: support examples per task (per class, where there are classes); [fewest, most]: the number is
            drawn uniformly for each task, and its other support examples are padding.
        query: query examples per task (per class, where there are classes).
        train_shot: support examples while training; None: `shot`.
        seed: determines the tasks.
    """

    loss: Loss
    metrics: tuple[Metric, ...] = ()
    input_shape: tuple[int, ...]
    output_size: int
    classes = 1
    targets: Targets = "values"

    def __init__(
        self,
        *,
        shot: Count | Counts,
        query: Count,
        train_shot: Count | Counts | None = None,
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.shots, self.query = Shots(shot, train_shot), query
        self.seed = seed
        self.dtype = dtype
        self._device = torch.device("cpu")

    def prepare(self, device: torch.device) -> None:
        """Generate tasks on this device from now on; there are no files to read."""
        self._device = device

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1 of a split."""
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, self._device)
        _, most = self.shots.interval(split)
        task = self.task(draws)
        query, support = self.examples_of(draws, task, self.query * self.classes, most * self.classes)
        drawn = self._examples(*support)
        drawn = self.shots.keep(drawn, draws, split)
        return Tasks(drawn, self._examples(*query), task, scoring=Scoring(self.loss, self.metrics))

    def examples_of(
        self, draws: Draws, task: Mapping[str, Tensor], queries: int, shots: int
    ) -> tuple[Pair, Pair]:
        """Return the query and the support set.

        The query set comes first, so that a task has the same one at any number of shots.
        """
        query = self.examples(draws, task, queries)
        return query, self.examples(draws, task, shots)

    def _examples(self, x: Tensor, y: Tensor) -> Examples:
        return Examples(x.to(self.dtype), y.to(self.dtype) if y.is_floating_point() else y.long())

    @abstractmethod
    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return the parameters of the tasks by name, [T, …]."""

    @abstractmethod
    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, …] and y: classes [T, n], or values [T, n, d]."""
