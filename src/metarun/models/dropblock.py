"""DropBlock with masks that are a function of the task's key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.fields import Size
from metarun.system.hashing import streams, uniform

DropRate = Annotated[float, Field(ge=0, lt=1)]

# Random bits of each task of the current forward pass, int64 [T]; set in the thread of that pass.
_keys: ContextVar[Tensor | None] = ContextVar("keys", default=None)


@contextmanager
def dropping(keys: Tensor | None) -> Iterator[None]:
    """Let `DropBlock` layers drop in the forward passes of a `with` statement.

    Args:
        keys: random bits of each task, int64 [T]; a batch holds the examples of task 0, then of task 1, and
            so on. None: nothing is dropped.
    """
    token = _keys.set(keys)
    try:
        yield
    finally:
        _keys.reset(token)


class DropBlock(nn.Module):
    """Sets square blocks of feature maps to zero in training, and scales the other entries up.

    Ghiasi, Lin & Le 2018, arXiv:1810.12890, algorithm 1. Block centres are drawn for each channel, from the
    task's key, the layer and the place. Outside of `dropping`, and in evaluation mode, the layer is the
    identity.

    Args:
        rate: fraction that is dropped, in expectation.
        size: height and width of a block, at most those of the map.
        layer: number of this layer among the network's DropBlock layers.
        rise: meta-steps over which the rate rises linearly from 0; 0: the rate is constant.

    Attributes:
        passes: meta-steps so far, a running statistic that the outer loop changes.
    """

    passes: Tensor

    def __init__(self, rate: DropRate, size: Size, layer: int, rise: int = 0) -> None:
        super().__init__()
        self.rate, self.size, self.layer, self.rise = rate, size, layer, rise
        self.register_buffer("passes", torch.zeros(()))

    @property
    def _fraction(self) -> Tensor | float:
        return (self.passes / self.rise).clamp_max(1) if self.rise else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """Map x [T · n, channels, height, width] to the same shape."""
        keys = _keys.get()
        if not self.training or keys is None or self.rate == 0:
            return x
        channels, height, width = x.shape[1:]
        size = min(self.size, height, width)
        rows, columns = height - size + 1, width - size + 1  # possible places of a block's corner
        rate = self._fraction * self.rate / size**2 * height * width / (rows * columns)
        count = len(x) // len(keys) * channels * rows * columns
        chosen = (uniform(streams(keys, self.layer, count)) < rate).view(-1, channels, rows, columns)
        # A pixel is dropped if any block that covers it is chosen.
        padded = F.pad(chosen.to(x.dtype), (size - 1,) * 4)
        kept = 1 - F.max_pool2d(padded, size, stride=1)
        shares = kept.view(len(keys), -1).mean(1)
        kept = kept.view(len(keys), -1) / shares.clamp_min(1e-6)[:, None]
        return x * kept.view(x.shape)
