"""Residual networks of the few-shot literature: ResNet-10, -12 and -18."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Size, Steps
from metarun.models.dropblock import DropBlock, DropRate
from metarun.models.norms import Norm, norm_layer

Shape = tuple[int, int, int]
"""(channels, height, width)."""

Features = Literal["mean", "flatten"]


def halved(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the height and width after a padded convolution of this stride."""
    height, width = ((each + stride - 1) // stride for each in size)
    return height, width


def convolution(before: int, after: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Return a convolution without bias, padded so that only the stride changes the size of an image."""
    return nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut (He et al. 2016, arXiv:1512.03385, figure 2).

    Args:
        shape: of the input, (channels, height, width).
        channels: of the output.
        stride: of the first convolution, and of the shortcut.
        norm: see `norm_layer`.
    """

    def __init__(self, shape: Shape, channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        before, height, width = shape
        size = halved((height, width), stride)
        self.shape = (channels, *size)
        self.conv1, self.norm1 = convolution(before, channels, 3, stride), norm_layer(norm, channels, size)
        self.conv2, self.norm2 = convolution(channels, channels, 3), norm_layer(norm, channels, size)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != channels:
            self.shortcut = nn.Sequential(
                convolution(before, channels, 1, stride), norm_layer(norm, channels, size)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, *shape] to [n, *self.shape]."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.shortcut(x)
        output: Tensor = self.relu(y)
        return output


class PooledBlock(nn.Module):
    """Three 3 × 3 convolutions with a shortcut, leaky ReLU and 2 × 2 max-pooling, of ResNet-12.

    Args:
        shape: of the input, (channels, height, width).
        channels: of the output, whose height and width are half of the input's.
        norm: see `norm_layer`.
        drop: the last layer, such as DropBlock.
    """

    def __init__(self, shape: Shape, channels: int, norm: Norm, drop: nn.Module) -> None:
        super().__init__()
        before, height, width = shape
        size = height, width
        self.shape = (channels, height // 2, width // 2)
        self.drop = drop
        self.conv1, self.norm1 = convolution(before, channels, 3), norm_layer(norm, channels, size)
        self.conv2, self.norm2 = convolution(channels, channels, 3), norm_layer(norm, channels, size)
        self.conv3, self.norm3 = convolution(channels, channels, 3), norm_layer(norm, channels, size)
        self.shortcut = nn.Sequential(convolution(before, channels, 1), norm_layer(norm, channels, size))
        self.relu = nn.LeakyReLU(0.1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, *shape] to [n, *self.shape]."""
        y = self.relu(self.norm1(self.conv1(x)))
        y = self.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y)) + self.shortcut(x)
        output: Tensor = self.drop(self.pool(self.relu(y)))
        return output


class Residual(nn.Sequential):
    """A body of blocks, its features and a head; subclasses add the blocks.

    Attributes:
        features: size of the embedding that the head maps to outputs.
        feature_shape: (channels, height, width) of the map that is flattened to it.
    """

    features: int
    feature_shape: Shape

    def finish(self, shape: Shape, features: Features, output_size: int | None) -> None:
        """Add pooling, flattening and head after the body, and initialise all convolutions.

        Args:
            shape: shape of the body's output.
            features: `mean` over the map's pixels, or `flatten`.
            output_size: outputs of the head; None: there is no head.

        Convolutions start from a normal distribution of variance 2 / (kernel area · output channels) (He et
        al. 2015, arXiv:1502.01852, section 2.2, backward case).
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if features == "mean":
            self.mean = nn.AdaptiveAvgPool2d(1)
            shape = (shape[0], 1, 1)
        self.flatten = nn.Flatten()
        self.feature_shape, self.features = shape, math.prod(shape)
        if output_size is not None:
            self.head = nn.Linear(self.features, output_size)


def image_shape(name: str, input_shape: tuple[int, ...], smallest: int) -> Shape:
    """Return the shape of an image.

    Raises:
        ConfigError: the input is not an image, or has fewer pixels than `smallest` on a side.
    """
    if len(input_shape) != 3:
        raise ConfigError(
            f"@model={name} needs images [channels, height, width], the data has {list(input_shape)}",
            "@model=mlp",
        )
    if min(input_shape[1:]) < smallest:
        raise ConfigError(
            f"@model={name} needs images of at least {smallest} × {smallest}, the data has "
            f"{list(input_shape)}",
            "@model=conv4",
        )
    channels, height, width = input_shape
    return channels, height, width


class ResNet(Residual):
    """ResNet-10 and -18: a 7 × 7 convolution, max-pooling, and four stages of basic blocks.

    He, Zhang, Ren & Sun 2016, arXiv:1512.03385, table 1; ResNet-10, with one block a stage, as in Chen et al.
    2019 (arXiv:1904.04232, section 4.1).

    Args:
        blocks: blocks of each stage: 1 (ResNet-10) or 2 (ResNet-18).
        width: channels of the first stage; each stage doubles them.
        norm: batch, group, layer or none.
        features: the spatial `mean` of the last feature map, as published, or `flatten` it.
        input_shape: (colour channels, height, width).
        output_size: outputs of the head; None: there is no head.

    Raises:
        ConfigError: the input is not an image.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        blocks: Size = 1,
        width: Size = 64,
        norm: Norm = "batch",
        features: Features = "mean",
    ) -> None:
        super().__init__()
        colours, *size = image_shape("resnet10", input_shape, 4)
        pixels = halved((size[0], size[1]), 2)
        self.stem = nn.Sequential(
            convolution(colours, width, 7, 2),
            norm_layer(norm, width, pixels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        shape: Shape = (width, *halved(pixels, 2))
        self.body = nn.Sequential()
        for stage in range(4):
            for index in range(blocks):
                stride = 2 if stage and index == 0 else 1
                block = BasicBlock(shape, width * 2**stage, stride, norm)
                self.body.add_module(f"block{stage + 1}_{index + 1}", block)
                shape = block.shape
        self.finish(shape, features, output_size)


class ResNet12(Residual):
    """ResNet-12: four blocks of three convolutions, each halving the image.

    Lee et al. 2019 (MetaOptNet), arXiv:1904.03758, section 4.1; in its code the drop rate rises to 0.1 over
    40,000 steps.

    Args:
        widths: channels of the blocks; [64, 128, 256, 512] is common too.
        drop_rate: rate of DropBlock after the last two blocks, in the training of embedding learners.
        drop_size: height and width of a dropped block.
        drop_rise: meta-steps over which the drop rate rises linearly from 0; 0: the rate is constant.
        norm: batch, group, layer or none.
        features: the spatial `mean` of the last feature map, or `flatten` it, as MetaOptNet does.
        input_shape: (colour channels, height, width).
        output_size: outputs of the head; None: there is no head.

    Raises:
        ConfigError: the input is not an image, or too small to be halved four times.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        widths: Annotated[Sequence[Size], Field(min_length=1)] = (64, 160, 320, 640),
        drop_rate: DropRate = 0.0,
        drop_size: Size = 5,
        drop_rise: Steps = 0,
        norm: Norm = "batch",
        features: Features = "mean",
    ) -> None:
        super().__init__()
        shape = image_shape("resnet12", input_shape, 2 ** len(widths))
        self.body = nn.Sequential()
        for index, channels in enumerate(widths, start=1):
            drops = drop_rate > 0 and index > len(widths) - 2
            drop = DropBlock(drop_rate, drop_size, index, drop_rise) if drops else nn.Identity()
            block = PooledBlock(shape, channels, norm, drop)
            self.body.add_module(f"block{index}", block)
            shape = block.shape
        self.finish(shape, features, output_size)
