"""Normalisation layers by name; none of them keeps running statistics."""

from __future__ import annotations

from typing import Literal

from torch import nn

Norm = Literal["batch", "group", "layer", "none"]


def norm_layer(norm: Norm, channels: int, spatial: tuple[int, ...] = ()) -> nn.Module:
    """Return a norm over [n, channels, *spatial].

    `batch` always uses the statistics of the current batch, as MAML's code does: a task's support and query
    sets are normalised separately, at test too (this makes it transductive). `group` uses groups of the
    largest divisor of the channels up to eight; `layer` normalises each example as a whole.
    """
    if norm == "batch":
        kind = nn.BatchNorm2d if spatial else nn.BatchNorm1d
        return kind(channels, track_running_stats=False)
    if norm == "group":
        size = next((size for size in range(8, 1, -1) if channels % size == 0), channels)
        return nn.GroupNorm(channels // size, channels)
    if norm == "layer":
        return nn.LayerNorm([channels, *spatial])
    return nn.Identity()
