"""Gradient descent with a learned rate for every parameter entry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, NonNegativeFloat
from torch import Tensor, nn

from metarun.rules.rule import Parameters, UpdateRule
from metarun.values import ordered

RateInterval = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)]


class MetaSGD(UpdateRule):
    """φ ← φ − α ∘ ∇L(φ), α a meta-parameter of θ's shape (Li et al. 2017, arXiv:1707.09835, equation 2).

    Rates are free to become negative, as in the paper.

    Args:
        lr: where all rates start: a number, or [low, high] for one number drawn uniformly from that
            interval (the paper: [0.005, 0.1]).
    """

    def __init__(self, *, lr: NonNegativeFloat | RateInterval) -> None:
        super().__init__()
        self.lr = lr
        # Parameter names hold dots, which a ParameterDict's keys cannot.
        self.rates = nn.ParameterDict()

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Make one rate for every entry of the initial parameters."""
        start = self.lr
        if not isinstance(start, int | float):
            low, high = start
            start = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
        for name, p in initial.items():
            self.rates[_key(name)] = nn.Parameter(torch.full_like(p, start))

    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:  # noqa: ARG002
        """Return the parameters moved against the gradient, each entry at its own rate."""
        return {
            name: p.addcmul(self.rates[_key(name)], grads[name], value=-1) for name, p in params.items()
        }, state


def _key(name: str) -> str:
    return name.replace(".", "/")
