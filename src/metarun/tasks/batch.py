"""Batches of tasks: every tensor carries a leading task dimension T."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Loss = Callable[[Tensor, Tensor], Tensor]
"""Predictions [T, n, out] and targets [T, n, …] to one value a task, [T]."""


@dataclass(frozen=True)
class Examples:
    """Labelled examples of T tasks: x [T, n, …]; y [T, n] (class index) or [T, n, d] (target).

    `key`, int64 [T], holds random bits of the episodes for what a learner draws for them; see `episodes`.
    """

    x: Tensor
    y: Tensor
    key: Tensor | None = None

    def tasks(self, chosen: slice) -> Examples:
        """Return the examples of some of the tasks."""
        return Examples(self.x[chosen], self.y[chosen], None if self.key is None else self.key[chosen])

    def take(self, chosen: Tensor | slice) -> Examples:
        """Return the same examples of every task, chosen along the dimension n."""
        return Examples(self.x[:, chosen], self.y[:, chosen], self.key)

    def __len__(self) -> int:
        """Return the number of examples of each task."""
        return self.x.shape[1]


@dataclass(frozen=True)
class TaskBatch:
    """T sampled tasks: what each learns from, what it is judged on, and its parameters (info, [T, …])."""

    support: Examples
    query: Examples
    info: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of tasks T."""
        return self.support.x.shape[0]

    def chunks(self, size: int) -> Iterator[TaskBatch]:
        """Yield the tasks in order, at most `size` of them at a time."""
        for start in range(0, len(self), size):
            yield self.part(slice(start, start + size))

    def part(self, chosen: slice) -> TaskBatch:
        """Return some of the tasks."""
        info = {name: value[chosen] for name, value in self.info.items()}
        return TaskBatch(self.support.tasks(chosen), self.query.tasks(chosen), info)


class TaskSource(Protocol):
    """Where tasks come from (`data=`): what a model and a learner need to know, and the episodes."""

    loss: Loss
    metrics: Mapping[str, Loss]
    input_shape: tuple[int, ...]
    output_size: int

    def prepare(self, device: torch.device) -> None:
        """Read or download what episodes are drawn from, and keep it on the device."""

    def batch(self, split: Split, first_episode: int, count: int) -> TaskBatch:
        """Return episodes first_episode … first_episode + count − 1: same arguments, same bits."""
