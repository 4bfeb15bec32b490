"""Linear and multi-layer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import NonNegativeFloat
from torch import nn

from metarun.fields import Size, SizeOrNone
from metarun.models.context import Context
from metarun.models.norms import Norm, norm_layer

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "gelu": nn.GELU}


class Linear(nn.Sequential):
    """One linear layer on the flattened input; weights start from zero by default, which suits closed forms.

    Args:
        bias: whether the layer has a bias.
        std: standard deviation of the initial weights; biases start from zero.
        input_shape: shape of one example.
        output_size: outputs; None: there is no head, and the embedding is the flattened input.

    Attributes:
        features: entries of the flattened input.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        bias: bool = True,
        std: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.features = math.prod(input_shape)
        if output_size is None:
            return
        self.head = nn.Linear(self.features, output_size, bias=bias)
        nn.init.normal_(self.head.weight, std=std)
        if bias:
            nn.init.zeros_(self.head.bias)


class MLP(nn.Sequential):
    """Linear layers with an activation between them: MAML's regression network by default.

    Weights start from a normal distribution with standard deviation 0.01, truncated at two deviations, and
    biases from zero, as in the code of MAML (Finn et al. 2017, arXiv:1703.03400).

    Args:
        hidden: sizes of the hidden layers.
        norm: norm after each hidden layer, before its activation; MAML's code uses batch on Omniglot.
        activation: activation of the hidden layers.
        context: number of context parameters appended to the input (algo=cavia).
        warp: add a linear map after each hidden layer's own, starting as the identity (algo=tnet).
        input_shape: shape of one example.
        output_size: outputs of the head; None: there is no head.

    Attributes:
        features: size of the embedding that the head maps to outputs.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int | None,
        hidden: Sequence[Size] = (40, 40),
        norm: Norm = "none",
        activation: Literal["relu", "tanh", "sigmoid", "elu", "gelu"] = "relu",
        context: SizeOrNone = 0,
        warp: bool = False,
    ) -> None:
        super().__init__()
        sizes = [math.prod(input_shape) + context, *hidden]
        self.flatten = nn.Flatten()
        if context:
            self.context = Context(context)
        self.body = nn.Sequential()
        for index, (before, after) in enumerate(pairwise(sizes), start=1):
            layer = OrderedDict[str, nn.Module](linear=nn.Linear(before, after))
            if warp:
                layer["warp"] = nn.Linear(after, after, bias=False)
            layer["norm"] = norm_layer(norm, after)
            layer[activation] = _ACTIVATIONS[activation]()
            self.body.add_module(f"layer{index}", nn.Sequential(layer))
        self.features = sizes[-1]
        if output_size is not None:
            self.head = nn.Linear(self.features, output_size)
        for name, module in self.named_modules():
            if name.endswith("warp"):
                nn.init.eye_(module.weight)
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
                nn.init.zeros_(module.bias)
