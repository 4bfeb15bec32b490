"""Context parameters, which adapt to a task in CAVIA (Zintgraf et al. 2019, arXiv:1810.03642)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metarun.fields import Size


class Context(nn.Module):
    """Appends context parameters to inputs [n, d], giving [n, d + size].

    The context parameters start at zero for every task, and are not meta-learned.

    Args:
        size: number of context parameters.
    """

    context_parameters = ("values",)

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, d] to [n, d + size]."""
        return torch.cat([x, self.values.expand(len(x), -1)], 1)

    def over_tasks(self, prefix: str) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        """Return the forward pass of T tasks: parameters by name and x [T, n, d] to [T, n, d + size]."""

        def step(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            values = params[f"{prefix}values"]
            return torch.cat([x, values.unsqueeze(1).expand(-1, x.shape[1], -1)], 2)

        return step


class Film(nn.Module):
    """Scales and shifts each channel, (1 + γ) x + β, with (γ, β) linear in the context parameters.

    Args:
        size: number of context parameters.
        channels: channels of the feature maps.
    """

    context_parameters = ("values",)

    def __init__(self, size: Size, channels: Size) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.map = nn.Linear(size, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, channels, height, width] to the same shape."""
        gamma_and_beta: Tensor = self.map(self.values)[:, None, None]
        gamma, beta = gamma_and_beta.chunk(2)
        return (1 + gamma) * x + beta

    def over_tasks(self, prefix: str) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        """Return the forward pass of T tasks: parameters by name and x [T, n, …] to [T, n, …]."""

        def step(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            weight, bias = params[f"{prefix}map.weight"], params[f"{prefix}map.bias"]
            gamma_and_beta = torch.baddbmm(bias.unsqueeze(2), weight, params[f"{prefix}values"].unsqueeze(2))
            gamma, beta = gamma_and_beta[:, None, :, :, None].chunk(2, 2)
            return (1 + gamma) * x + beta

        return step
