"""How many support examples tasks have: a number, or one drawn for each task."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.fields import Count, Counts
from metarun.tasks.draws import Draws
from metarun.tasks.types import Examples, Split


@dataclass(frozen=True)
class Shots:
    """A number of support examples, or [fewest, most]: a number drawn for each task, uniformly.

    Attributes:
        shot: of validation and test tasks.
        train_shot: of training tasks; None: `shot`.
    """

    shot: Count | Counts
    train_shot: Count | Counts | None = None

    def interval(self, split: Split) -> tuple[int, int]:
        """Return the fewest and the most examples of a split's tasks."""
        shot = self.train_shot if split == "train" and self.train_shot else self.shot
        return (shot, shot) if isinstance(shot, int) else shot

    def keep(self, support: Examples, draws: Draws, split: Split) -> Examples:
        """Return support sets of as many examples, of each class, as are drawn; the others are padding.

        Args:
            support: of the most examples.
            draws: random numbers, of which none are used where all tasks have the same number.
            split: of the tasks.
        """
        fewest, most = self.interval(split)
        if fewest == most:
            return support
        shots = whole(draws, (fewest, most))
        return replace(support, mask=places_in_class(support.y) < shots[:, None]).padded()


def places_in_class(y: Tensor) -> Tensor:
    """Return how many examples of the same class come before each, [T, n]; of values, of all."""
    if y.is_floating_point():
        return torch.arange(y.shape[1], device=y.device).expand(y.shape[:2])
    return (y[:, :, None] == y[:, None]).tril(-1).sum(2)


def whole(draws: Draws, interval: tuple[int, int]) -> Tensor:
    """Return a whole number of each task, uniform in [fewest, most], [T]."""
    fewest, most = interval
    return fewest + (draws.uniform() * (most - fewest + 1)).long()
