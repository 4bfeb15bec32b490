"""Fingerprints of tasks, to check that two tests used the same tasks."""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.tasks.types import Tasks

_MOST = 4096  # entries of a task's tensor that are used


def sketch(tasks: Tasks) -> Tensor:
    """Return a projection of each task's inputs and targets, float64 [4, T]: support x, y and query x, y.

    The weights are fixed. Values that differ only by rounding, as between devices or dtypes, have nearly the
    same projection; other values almost certainly have a different projection.
    """
    parts = (part for part in (tasks.support.padded(), tasks.query.padded()))
    return torch.stack([_projected(values) for part in parts for values in (part.x, part.y)])


def _projected(values: Tensor) -> Tensor:
    flat = values.detach().flatten(1)
    flat = flat[:, :: max(1, flat.shape[1] // _MOST)].double().cpu()
    weights = torch.cos(1 + torch.arange(flat.shape[1], dtype=torch.float64))
    projected: Tensor = flat @ weights / max(1, flat.shape[1]) ** 0.5
    return projected


def are_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two sketches [4, T] are of the same tasks in the same order."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-4, atol=1e-5)
