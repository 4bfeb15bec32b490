"""Wide residual networks."""

from __future__ import annotations

from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.models.norms import Norm, norm_layer
from metarun.models.residual import Features, Residual, Shape, convolution, halved, image_shape


class PreactivationBlock(nn.Module):
    """Norm, ReLU and 3 × 3 convolution, twice (He et al. 2016, arXiv:1603.05027, figure 1b).

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
        self.norm1, self.conv1 = (
            norm_layer(norm, before, (height, width)),
            convolution(before, channels, 3, stride),
        )
        self.norm2, self.conv2 = norm_layer(norm, channels, size), convolution(channels, channels, 3)
        self.shortcut = convolution(before, channels, 1, stride) if before != channels else None
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, *shape] to [n, *self.shape]."""
        activated = self.relu(self.norm1(x))
        # If the shape changes, the shortcut starts from the activations, too.
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        output: Tensor = self.conv2(self.relu(self.norm2(self.conv1(activated)))) + shortcut
        return output


class WideResNet(Residual):
    """WRN-d-k: three stages of pre-activation blocks, k times as wide as those of a pre-activation ResNet.

    Zagoruyko & Komodakis 2016, arXiv:1605.07146, table 1, without dropout; WRN-28-10 is common in few-shot
    learning (Mangla et al. 2020, arXiv:1907.12087).

    Args:
        depth: d = 4 + 6 n, with n blocks in each stage.
        widen: k, the factor of the widths.
        norm: batch, group, layer or none.
        features: the spatial `mean` of the last feature map, as published, or `flatten` it.
        input_shape: (colour channels, height, width).
        output_size: outputs of the head; None: there is no head.

    Raises:
        ConfigError: the depth is not 4 + 6 n, or the input is not an image.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        depth: Size = 28,
        widen: Size = 10,
        norm: Norm = "batch",
        features: Features = "mean",
    ) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ConfigError(f"@model.depth={depth} is not 4 + 6 n", "@model.depth=28, 16 or 10")
        colours, height, width = image_shape("wrn28_10", input_shape, 4)
        self.stem = convolution(colours, 16, 3)
        shape: Shape = (16, height, width)
        self.body = nn.Sequential()
        for stage in range(3):
            for index in range((depth - 4) // 6):
                stride = 2 if stage and index == 0 else 1
                block = PreactivationBlock(shape, 16 * widen * 2**stage, stride, norm)
                self.body.add_module(f"block{stage + 1}_{index + 1}", block)
                shape = block.shape
        self.norm = norm_layer(norm, shape[0], shape[1:])
        self.relu = nn.ReLU()
        self.finish(shape, features, output_size)
