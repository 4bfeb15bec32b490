"""Gradient descent with learned rates and optional learned momenta: Meta-SGD, LSLR and their relatives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, NonNegativeFloat
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import SizeOrNone, ordered
from metarun.figures import Figure
from metarun.rules.rule import Decay, Parameters, at_step, key
from metarun.rules.seen import rates_figure, steps_figure
from metarun.rules.transformations import Chain, Trace

RateInterval = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(ordered)]

Grain = Literal["all", "layer", "tensor", "entry"]
"""The parameters that share a rate: all parameters, a layer's weight and bias, the entries of a tensor, or
none (a rate for each entry)."""


class LearnedRates(Chain):
    """φ ← φ − α ∘ ∇L(φ), α a meta-parameter.

    One rate per entry is Meta-SGD (Li et al. 2017, arXiv:1707.09835, equation 2); one per tensor and step is
    MAML++'s LSLR (Antoniou et al. 2019, arXiv:1810.09502, section 4, as in the authors' code).

    Args:
        lr: initial value of all rates: a number, or [low, high] for one number drawn uniformly from that
            interval (Meta-SGD's paper: [0.005, 0.1]).
        per: granularity of the rates.
        per_step: number of steps with their own rates; later steps use those of the last step. null: all
            steps share their rates.
        momentum: initial value of learned momenta μ, one for each rate: v ← μ v + ∇L(φ), φ ← φ − α ∘ v; null:
            no momentum.
        positive: learn log α, and μ through a sigmoid, so that neither changes sign; false: both are
            unconstrained, as in both papers.

    Raises:
        ConfigError: `positive` with an initial rate or momentum of 0, which has no logarithm.
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
        """Create the rates, and momenta, for the initial parameters."""
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
        """Return the key of a parameter's rate."""
        if self.per == "all":
            return "all"
        return key(name.rpartition(".")[0] or name if self.per == "layer" else name)

    def rate(self, name: str, step: int) -> Tensor:
        """Return α for a parameter at a step: a number, or one per entry."""
        raw = self._of_step(self.rates[self._owner(name)], step)
        return raw.exp() if self.positive else raw

    def move(self, params: Parameters, updates: Parameters, step: int) -> Parameters:
        """Return the parameters moved against the gradients, or the velocities, each at its rate."""
        return {name: p.addcmul(self.rate(name, step), updates[name], value=-1) for name, p in params.items()}

    def learned(self, adapt: Callable[[], None]) -> list[Figure]:  # noqa: ARG002
        """Return the distribution of the rates, and of the momenta, by layer, and their means by step."""
        sets: dict[str, tuple[nn.ParameterDict, Callable[[Tensor], Tensor]]] = {
            "rates": (self.rates, torch.exp),
            "momenta": (self.momenta, torch.sigmoid),
        }
        figures: list[Figure] = []
        for what, (raw, positive) in sets.items():
            values = {name: positive(v) if self.positive else v for name, v in raw.items()}
            if values:
                figures.append(rates_figure(what, values))
            if values and self.per_step is not None and self.per_step > 1:
                figures.append(steps_figure(what, values))
        return figures

    def _momentum(self, name: str, step: int) -> Tensor:
        raw = self._of_step(self.momenta[self._owner(name)], step)
        return raw.sigmoid() if self.positive else raw

    def _of_step(self, values: Tensor, step: int) -> Tensor:
        return values if self.per_step is None else at_step(values, step)
