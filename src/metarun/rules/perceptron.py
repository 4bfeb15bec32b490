"""The small networks inside learned rules and learners."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn


def perceptron(inputs: int, hidden: int, outputs: int, depth: int = 3) -> nn.Sequential:
    """Return `depth` linear layers with ReLU between them; hidden layers have `hidden` units."""
    sizes = [inputs, *[hidden] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def draw(network: nn.Module, generator: torch.Generator) -> None:
    """Draw the weights and biases of the network's linear layers, uniform in ±1/√(inputs) as torch does."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
