"""Networks (`model=`): plain nn.Modules whose last layer is called `head`, all before it the body."""

from metarun.models.context import Context, Film
from metarun.models.conv4 import Conv4
from metarun.models.dense import MLP, Linear

__all__ = ["MLP", "Context", "Conv4", "Film", "Linear"]
