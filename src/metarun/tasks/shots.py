"""The number of support examples: fixed, or drawn for each task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.fields import Count, Counts
from metarun.tasks.draws import Draws
from metarun.tasks.types import Examples, Split


@dataclass(frozen=True)
class Shots:
    """A number of support examples, or [fewest, most] for a number drawn uniformly for each task.

    Attributes:
        shot: number for validation and test tasks.
        train_shot: number for training tasks; None: `shot`.
    """

    shot: Count | Counts
    train_shot: Count | Counts | None = None

    def interval(self, split: Split) -> tuple[int, int]:
        """Return the fewest and the most support examples of a split's tasks."""
        shot = self.train_shot if split == "train" and self.train_shot else self.shot
        return (shot, shot) if isinstance(shot, int) else shot

    def keep(self, support: Examples, draws: Draws, split: Split) -> Examples:
        """Draw each task's number of support examples (per class), and turn the other examples into padding.

        Args:
            support: support sets with the largest number of examples.
            draws: random numbers; unused if all tasks have the same number.
            split: the split of the tasks.
        """
        fewest, most = self.interval(split)
        if fewest == most:
            return support
        shots = whole(draws, (fewest, most))
        return replace(support, mask=places_in_class(support.y) < shots[:, None]).padded()


def places_in_class(y: Tensor) -> Tensor:
    """Return the number of earlier examples, [T, n]: of the same class if y are classes, else of all."""
    if y.is_floating_point():
        return torch.arange(y.shape[1], device=y.device).expand(y.shape[:2])
    return (y[:, :, None] == y[:, None]).tril(-1).sum(2)


def whole(draws: Draws, interval: tuple[int, int]) -> Tensor:
    """Return a whole number for each task, [T], uniform in [fewest, most]."""
    fewest, most = interval
    return fewest + (draws.uniform() * (most - fewest + 1)).long()
