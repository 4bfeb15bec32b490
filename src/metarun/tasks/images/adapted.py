"""Images of another dataset, converted to the size and the channels that a network was trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.tasks.types import Examples, Split, Tasks, TaskSource

_LUMA = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


class Adapted:
    """A source whose images are resized, and converted to grey or to three equal channels.

    Args:
        source: a source of images [channels, height, width].
        shape: the shape after the conversion, [channels, height, width].

    Raises:
        ConfigError: a shape is not that of an image, or has another number of channels than one or three.
    """

    def __init__(self, source: TaskSource, shape: tuple[int, ...]) -> None:
        given = tuple(source.input_shape)
        if len(given) != 3 or len(shape) != 3 or not {given[0], shape[0]} <= {1, 3}:
            raise ConfigError(
                f"data: its inputs are {list(given)}, and {list(shape)} are wanted: only images "
                f"of one or three channels are made to fit"
            )
        self._source = source
        self.input_shape: tuple[int, ...] = shape
        self.loss, self.metrics, self.output_size = source.loss, source.metrics, source.output_size

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the source."""
        return getattr(self._source, name)

    def prepare(self, device: torch.device) -> None:
        """Read or download the data, and keep it on the device."""
        self._source.prepare(device)

    def in_words(self) -> str:
        """Return a description of the conversion, for users."""
        (channels, *size), (had, *before) = self.input_shape, self._source.input_shape
        parts = [f"{before[0]} × {before[1]} to {size[0]} × {size[1]}"] if size != before else []
        if channels != had:
            parts.append("grey to colour" if had == 1 else "colour to grey")
        return ", ".join(parts)

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes of the source with converted images."""
        tasks = self._source.batch(split, first_episode, count)
        more = tasks.unlabelled
        return replace(
            tasks,
            support=self._fitted(tasks.support),
            query=self._fitted(tasks.query),
            unlabelled=None if more is None else self._fitted(more),
        )

    def _fitted(self, examples: Examples) -> Examples:
        x = examples.x.flatten(0, 1)
        if x.shape[1] == 3 and self.input_shape[0] == 1:
            x = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
        if tuple(x.shape[2:]) != self.input_shape[1:] and len(x):
            x = F.interpolate(x, self.input_shape[1:], mode="bilinear", antialias=True).clamp(0, 1)
        x = x.expand(-1, self.input_shape[0], -1, -1)
        return replace(examples, x=_unflattened(x, examples.x))


def _unflattened(x: Tensor, like: Tensor) -> Tensor:
    return torch.reshape(x, (*like.shape[:2], *x.shape[1:]))
