"""Distances and similarities of the embeddings of T tasks."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def squared_distances(features: Tensor, points: Tensor) -> Tensor:
    """Return ‖f_i − p_j‖², [T, n, m], for features [T, n, d] and points [T, m, d]."""
    squares = features.square().sum(2)[..., None] + points.square().sum(2)[:, None]
    return squares - 2 * features @ points.mT


def cosines(features: Tensor, points: Tensor) -> Tensor:
    """Return cos(f_i, p_j), [T, n, m], for features [T, n, d] and points [T, m, d]."""
    return F.normalize(features, dim=2) @ F.normalize(points, dim=2).mT
