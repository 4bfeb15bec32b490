"""Linear and multi-layer perceptron."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from pydantic import PositiveInt
from torch import nn

from metarun.models.norms import Norm, norm_layer


class Linear(nn.Sequential):
    """One linear layer on the flattened input, starting from zero (closed forms are easy there)."""

    def __init__(self, *, input_shape: tuple[int, ...], output_size: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = nn.Linear(math.prod(input_shape), output_size)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class MLP(nn.Sequential):
    """Linear layers with ReLU between them: MAML's regression network by default.

    Weights start from a normal with standard deviation 0.01 cut at two deviations and biases from zero,
    as in the code of MAML (Finn et al. 2017, arXiv:1703.03400).

    Args:
        hidden: sizes of the hidden layers.
        norm: after each hidden layer, before its ReLU; MAML's code uses batch on Omniglot.
        input_shape: of one example.
        output_size: outputs of the head.
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, ...],
        output_size: int,
        hidden: Sequence[PositiveInt] = (40, 40),
        norm: Norm = "none",
    ) -> None:
        super().__init__()
        sizes = [math.prod(input_shape), *hidden]
        self.flatten = nn.Flatten()
        self.body = nn.Sequential()
        for index, (before, after) in enumerate(pairwise(sizes), start=1):
            layer = OrderedDict(linear=nn.Linear(before, after), norm=norm_layer(norm, after), relu=nn.ReLU())
            self.body.add_module(f"layer{index}", nn.Sequential(layer))
        self.head = nn.Linear(sizes[-1], output_size)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.02, b=0.02)
                nn.init.zeros_(module.bias)
