"""Context parameters: what adapts to a task in CAVIA (Zintgraf et al. 2019, arXiv:1810.03642)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from metarun.fields import Size


class Context(nn.Module):
    """Inputs [n, d] with context parameters behind them, [n, d + size].

    They start at zero for every task, and are not meta-learned.

    Args:
        size: how many.
    """

    context_parameters = ("values",)

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(size), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, d] to [n, d + size]."""
        return torch.cat([x, self.values.expand(len(x), -1)], 1)

    def over_tasks(self, prefix: str) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        """Return the same for T tasks: their parameters by name and x [T, n, d] to [T, n, d + size]."""

        def step(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            values = params[f"{prefix}values"]
            return torch.cat([x, values.unsqueeze(1).expand(-1, x.shape[1], -1)], 2)

        return step


class Film(nn.Module):
    """Feature maps scaled and shifted a channel, (1 + γ) x + β, with (γ, β) linear in context parameters.

    Args:
        size: how many context parameters.
        channels: of the feature maps.
    """

    context_parameters = ("values",)

    def __init__(self, size: Size, channels: Size) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.map = nn.Linear(size, 2 * channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [n, channels, height, width] to the same shape."""
        made: Tensor = self.map(self.values)[:, None, None]
        gamma, beta = made.chunk(2)
        return (1 + gamma) * x + beta

    def over_tasks(self, prefix: str) -> Callable[[Mapping[str, Tensor], Tensor], Tensor]:
        """Return the same for T tasks: their parameters by name and x [T, n, …] to [T, n, …]."""

        def step(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            weight, bias = params[f"{prefix}map.weight"], params[f"{prefix}map.bias"]
            made = torch.baddbmm(bias.unsqueeze(2), weight, params[f"{prefix}values"].unsqueeze(2))
            gamma, beta = made[:, None, :, :, None].chunk(2, 2)
            return (1 + gamma) * x + beta

        return step
