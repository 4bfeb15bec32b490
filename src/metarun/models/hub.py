"""Any network of the package timm as an embedding."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError, did_you_mean, in_one_line
from metarun.fields import SizeOrNone
from metarun.models.residual import image_shape


class Timm(nn.Sequential):
    """A network of timm (Wightman 2019, "PyTorch Image Models"), without its classifier.

    Batch norms keep running statistics, so the networks suit learners that use embeddings, frozen or
    fine-tuned.

    Args:
        name: as in `timm.list_models()`.
        pretrained: whether to start from timm's weights, which timm downloads from its hub.
        size: height and width that images are resized to first (bilinear); 0: not resized.
        input_shape: (1 or 3 colour channels, height, width), with values from 0 to 1.
        output_size: outputs of the head; None: there is no head.

    Attributes:
        features: size of the embedding.

    Raises:
        ConfigError: the input is not an image; timm is not installed, does not know the name, or cannot
            download the weights; or the network does not accept images of this size.
    """

    def __init__(
        self,
        *,
        name: str,
        input_shape: tuple[int, ...],
        output_size: int | None,
        pretrained: bool = True,
        size: SizeOrNone = 0,
    ) -> None:
        super().__init__()
        colours, *pixels = image_shape("timm", input_shape, 1)
        if colours not in (1, 3):
            raise ConfigError(
                f"@model=timm needs images of 1 or 3 colour channels, the data has {colours}",
                "@model=resnet12",
            )
        body = _create(name, pretrained)
        config: dict[str, Any] = getattr(body, "default_cfg", None) or {}
        # timm's own defaults are the mean and the deviation of ImageNet.
        mean, std = config.get("mean", (0.485, 0.456, 0.406)), config.get("std", (0.229, 0.224, 0.225))
        self.prepare = Normalised(mean, std, size)
        self.body, self.flatten = body, nn.Flatten()
        self.features = self._size_for(torch.zeros(2, colours, *pixels), name)
        if output_size is not None:
            self.head = nn.Linear(self.features, output_size)

    def _size_for(self, images: Tensor, name: str) -> int:
        was_training = self.training
        try:
            with torch.no_grad():
                size: int = self.eval()(images).shape[1]
        except Exception as error:  # a network may refuse a size with an error of any type
            raise ConfigError(
                f"@model.name={name}: it does not take images {list(images.shape[1:])}: {in_one_line(error)}",
                "@model.size=224, or what it was trained on",
            ) from error
        finally:
            self.train(was_training)
        return size


class Normalised(nn.Module):
    """Resizes images from 0 to 1, gives them three colours, and normalises each colour.

    Args:
        mean: mean of each colour in the network's pretraining.
        std: standard deviation of each colour in the network's pretraining.
        size: height and width to resize to; 0: not resized.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], size: int = 0) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [n, 1 or 3, height, width] to [n, 3, height, width]."""
        if self.size:
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return (x.expand(-1, 3, -1, -1) - self.mean) / self.std


def _create(name: str, pretrained: bool) -> nn.Module:
    try:
        timm = import_module("timm")
    except Exception as error:  # torchvision raises a RuntimeError if it was built for another torch
        raise ConfigError(
            f"@model=timm: the package timm cannot be imported ({in_one_line(error)}): pip install "
            f"'metarun[timm]', with the torchvision of your torch",
            "@model=efficientnet_lite0, which needs no hub",
        ) from error
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigError(
            f"@model.name={name}: timm has no such model{did_you_mean(name, timm.list_models())}; "
            f"timm.list_models() lists them"
        )
    try:
        body: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the client of timm's hub raises many types of errors
        raise ConfigError(
            f"@model.name={name}: timm cannot make it{' with its pretrained weights' if pretrained else ''}: "
            f"{in_one_line(error)[:200]}",
            "@model.pretrained=false, or @model=efficientnet_lite0, which needs no hub",
        ) from error
    return body
