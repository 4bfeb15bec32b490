"""The embedding of learners that have networks of their own."""

from __future__ import annotations

from torch import nn

from metarun.fields import Size
from metarun.models.conv4 import Conv4
from metarun.models.dense import Linear


def embedding(*, input_shape: tuple[int, ...], output_size: int | None, filters: Size = 64) -> nn.Module:
    """Return `Conv4` for images, and `Linear` for vectors, which is the identity without a head.

    Args:
        input_shape: shape of one example; three sizes are an image.
        output_size: outputs of the head; None: there is no head.
        filters: channels of every block of `Conv4`.
    """
    if len(input_shape) == 3:
        return Conv4(input_shape=input_shape, output_size=output_size, filters=filters)
    return Linear(input_shape=input_shape, output_size=output_size)
