"""Tasks with fewer support examples: what a learner knows after 1, 2, … of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from metarun.tasks.types import Examples, Tasks

# Every size up to ten; then about a fifth apart.
_SIZES = (*range(1, 11), 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 600, 800)


def axis(tasks: Tasks) -> str:
    """Return what grows from one of `with_fewer_examples` to the next."""
    return "context examples" if tasks.support.y.is_floating_point() else "shots"


def sizes(tasks: Tasks) -> list[int]:
    """Return numbers of support examples, of each class where there are classes, up to those that there are.

    Tasks whose own numbers differ have one size: all.
    """
    support = tasks.support
    if support.mask is not None or len(support) == 0:
        return []
    most = int(_places(support).max()) + 1
    # Where a class has fewer examples than another, it would stop growing before.
    if not support.y.is_floating_point() and bool((_same_class(support.y).sum(2) != most).any()):
        return []
    return [*(size for size in _SIZES if size < most), most]


def with_fewer_examples(tasks: Tasks) -> Iterator[Tasks]:
    """Yield the tasks with the first 1, 2, … support examples, of each class where there are classes.

    The numbers are those of `sizes`; the last are the tasks themselves.
    """
    numbers = sizes(tasks)
    for number in numbers[:-1]:
        kept = _places(tasks.support) < number  # equally many in each task
        index = kept.long().argsort(dim=1, descending=True, stable=True)[:, : int(kept[0].sum())]
        support = Examples(*(_gathered(values, index) for values in (tasks.support.x, tasks.support.y)))
        yield replace(tasks, support=support)
    yield tasks


def _gathered(values: Tensor, index: Tensor) -> Tensor:
    places = index.view(*index.shape, *[1] * (values.dim() - 2)).expand(*index.shape, *values.shape[2:])
    return values.gather(1, places)


def _places(support: Examples) -> Tensor:
    """Return how many examples of its class come before each, [T, n]; of values, how many examples."""
    y = support.y
    if y.is_floating_point():
        return torch.arange(y.shape[1], device=y.device).expand(y.shape[:2])
    return _same_class(y).tril(-1).sum(2)


def _same_class(y: Tensor) -> Tensor:
    return y[:, :, None] == y[:, None]
