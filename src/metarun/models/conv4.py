"""The four-block convolutional network of the few-shot literature (Vinyals et al. 2016, arXiv:1606.04080)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from metarun.errors import ConfigError
from metarun.fields import Size, SizeOrNone
from metarun.models.context import Film
from metarun.models.norms import Norm, norm_layer

BLOCKS = 4


class Conv4(nn.Sequential):
    """Four blocks of 3 × 3 convolution, norm, ReLU and halving, then a linear head.

    Convolutions and head start from Xavier's uniform distribution (Glorot & Bengio 2010) and biases from
    zero, as in the code of MAML (Finn et al. 2017, arXiv:1703.03400; its Omniglot head is an exception:
    a standard normal).

    Args:
        filters: channels of every block, or of each of the four.
        norm: batch, group, layer or none.
        halve: `pool` (2 × 2 max-pooling after the norm) or `stride` (the convolution has stride 2).
        halvings: number of blocks, from the first, that halve the image; later blocks keep its size
            (RelationNet, arXiv:1711.06025, section 3.4, has 2).
        features: `flatten` the last feature map or take its spatial `mean`, as MAML's Omniglot code does.
        context: number of context parameters that scale and shift the third block's channels (algo=cavia).
        warp: add a 1 × 1 convolution after each block's own, starting as the identity (algo=tnet).
        input_shape: (colour channels, height, width).
        output_size: outputs of the head; None: there is no head.

    Attributes:
        features: size of the embedding that the head maps to outputs.
        feature_shape: (channels, height, width) of the map that is flattened to the embedding.

    Raises:
        ConfigError: the input is not an image or is too small for the halvings, or `filters` is a list of
            another length than four.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        filters: Size | Annotated[Sequence[Size], Field(min_length=BLOCKS, max_length=BLOCKS)] = 64,
        norm: Norm = "batch",
        halve: Literal["pool", "stride"] = "pool",
        halvings: Annotated[int, Field(ge=0, le=BLOCKS)] = BLOCKS,
        features: Literal["flatten", "mean"] = "flatten",
        context: SizeOrNone = 0,
        warp: bool = False,
    ) -> None:
        super().__init__()
        if len(input_shape) != 3:
            raise ConfigError(
                f"@model=conv4 needs images [channels, height, width], the data has {list(input_shape)}",
                "@model=mlp",
            )
        channels, height, width = input_shape
        widths = [filters] * BLOCKS if isinstance(filters, int) else list(filters)
        self.body = nn.Sequential()
        for index, out in enumerate(widths, start=1):
            halves = index <= halvings
            stride = 2 if halves and halve == "stride" else 1
            half_size = ((height + 1) // 2, (width + 1) // 2) if stride == 2 else (height // 2, width // 2)
            layers = {
                "conv": nn.Conv2d(channels, out, 3, stride, padding=1),
                "warp": nn.Conv2d(out, out, 1, bias=False) if warp else None,
                "norm": norm_layer(norm, out, half_size if stride == 2 else (height, width)),
                "context": Film(context, out) if context and index == 3 else None,
                "pool": nn.MaxPool2d(2) if halves and halve == "pool" else None,
                # Max-pooling commutes with ReLU: the same function for a quarter of the work.
                "relu": nn.ReLU(),
            }
            block = OrderedDict((name, layer) for name, layer in layers.items() if layer is not None)
            self.body.add_module(f"block{index}", nn.Sequential(block))
            channels, (height, width) = out, half_size if halves else (height, width)
        if height * width == 0:
            raise ConfigError(
                f"@model=conv4 halves images {halvings} times, {list(input_shape)} is too small",
                "@model=mlp, or a smaller @model.halvings",
            )
        if features == "mean":
            self.mean = nn.AdaptiveAvgPool2d(1)
            height = width = 1
        self.flatten = nn.Flatten()
        self.feature_shape = (channels, height, width)
        self.features = channels * height * width
        if output_size is not None:
            self.head = nn.Linear(self.features, output_size)
        self._initialise()

    def _initialise(self) -> None:
        for name, module in self.named_modules():
            if name.endswith("warp"):
                nn.init.dirac_(module.weight)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
