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

    def keep(self, support: Examples, draws: Draws, split: Split, places: Tensor | None = None) -> Examples:
        """Return support sets of as many examples as are drawn for each task; the others are padding.

        Args:
            support: of the most examples.
            draws: random numbers, of which none are used where all tasks have the same number.
            split: of the tasks.
            places: which example each is, [T, n], of its class; None: of all.
        """
        fewest, most = self.interval(split)
        if fewest == most:
            return support
        return keep_first(support, whole(draws, (fewest, most)), places)


def keep_first(support: Examples, shots: Tensor, places: Tensor | None = None) -> Examples:
    """Return the first `shots` [T] examples of each support set; the others are padding."""
    if places is None:
        places = torch.arange(len(support), device=shots.device)
    return replace(support, mask=places < shots[:, None]).padded()


def whole(draws: Draws, interval: tuple[int, int]) -> Tensor:
    """Return a whole number of each task, uniform in [fewest, most], [T]."""
    fewest, most = interval
    return fewest + (draws.uniform() * (most - fewest + 1)).long()
