"""Networks (`model=`): plain nn.Modules, a body and a last layer called `head`.

With `output_size=None` there is no head, and a network maps an example to an embedding of `features` entries.
"""

from metarun.models.context import Context, Film
from metarun.models.conv4 import Conv4
from metarun.models.dense import MLP, Linear
from metarun.models.efficientnet import EfficientNetLite0
from metarun.models.embedding import embedding
from metarun.models.hub import Timm
from metarun.models.residual import ResNet, ResNet12
from metarun.models.wide import WideResNet

__all__ = [
    "MLP",
    "Context",
    "Conv4",
    "EfficientNetLite0",
    "Film",
    "Linear",
    "ResNet",
    "ResNet12",
    "Timm",
    "WideResNet",
    "embedding",
]
