"""Gradient descent whose rates, and perhaps momenta, are learned: Meta-SGD, LSLR and their relatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, NonNegativeFloat
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import SizeOrNone, ordered
from metarun.rules.rule import Decay, Parameters, at_step, key
from metarun.rules.transformations import Chain, Trace

RateInterval = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)]

Grain = Literal["all", "layer", "tensor", "entry"]
"""What has a rate of its own: nothing, a layer (its weight and bias share one), each weight and each bias,
or each entry of them."""


class LearnedRates(Chain):
    """φ ← φ − α ∘ ∇L(φ), α a meta-parameter.

    One rate an entry is Meta-SGD (Li et al. 2017, arXiv:1707.09835, equation 2); one a tensor and a step is
    MAML++'s LSLR (Antoniou et al. 2019, arXiv:1810.09502, section 4, as its code has it).

    Args:
        lr: where all rates start: a number, or [low, high] for one number drawn uniformly from that
            interval (Meta-SGD's paper: [0.005, 0.1]).
        per: what has a rate of its own.
        per_step: so many steps have rates of their own, and later ones those of the last of them; null: all
            steps share them.
        momentum: where learned momenta μ start, as many as rates: v ← μ v + ∇L(φ), φ ← φ − α ∘ v; null: none.
        positive: learn log α, and μ through a sigmoid, so that neither changes sign; otherwise free, as in
            both papers.

    Raises:
        ConfigError: a start that `positive` has no logarithm of.
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat | RateInterval,
        per: Grain = "entry",
        per_step: SizeOrNone | None = None,
        momentum: Decay | None = None,
        positive: bool = False,
    ) -> None:
        if positive and (0 in (lr if isinstance(lr, tuple | list) else [lr]) or momentum == 0):
            raise ConfigError("@rule.positive=true: @rule.lr and @rule.momentum have to start above 0")
        super().__init__(*(() if momentum is None else (Trace(self._momentum),)), lr=0.0)
        self.start, self.per = lr, per
        self.per_step = per_step if per_step is None else max(per_step, 1)
        self.momentum, self.positive = momentum, positive
        self.rates = nn.ParameterDict()
        self.momenta = nn.ParameterDict()

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Make the rates, and momenta, for the initial parameters."""
        start = self.start
        if not isinstance(start, int | float):
            low, high = start
            start = low + (high - low) * torch.rand((), generator=generator, dtype=torch.float64).item()
        momentum = self.momentum
        if self.positive:
            start = math.log(start)
            momentum = None if momentum is None else math.log(momentum / (1 - momentum))
        steps = () if self.per_step is None else (self.per_step,)
        for name, p in initial.items():
            shape = (*steps, *p.shape) if self.per == "entry" else steps
            self.rates[self._owner(name)] = nn.Parameter(p.new_full(shape, start))
            if momentum is not None:
                self.momenta[self._owner(name)] = nn.Parameter(p.new_full(shape, momentum))

    def _owner(self, name: str) -> str:
        """Return the key of the rate that a parameter has."""
        if self.per == "all":
            return "all"
        return key(name.rpartition(".")[0] or name if self.per == "layer" else name)

    def rate(self, name: str, step: int) -> Tensor:
        """Return α for a parameter at a step: a number, or one an entry."""
        raw = self._of_step(self.rates[self._owner(name)], step)
        return raw.exp() if self.positive else raw

    def move(self, params: Parameters, updates: Parameters, step: int) -> Parameters:
        """Return the parameters moved against the gradient, or along their velocity, each at its rate."""
        return {name: p.addcmul(self.rate(name, step), updates[name], value=-1) for name, p in params.items()}

    def _momentum(self, name: str, step: int) -> Tensor:
        raw = self._of_step(self.momenta[self._owner(name)], step)
        return raw.sigmoid() if self.positive else raw

    def _of_step(self, values: Tensor, step: int) -> Tensor:
        return values if self.per_step is None else at_step(values, step)
