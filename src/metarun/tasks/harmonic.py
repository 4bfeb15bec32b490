"""Sums of two sine waves, the second of twice the frequency of the first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.fields import Interval
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import mean_squared_error
from metarun.tasks.regression import REGRESSION
from metarun.tasks.synthetic import Pair, SyntheticSource, stretch


class Harmonic(SyntheticSource):
    """y = a₁ sin(ω x + b₁) + a₂ sin(2 ω x + b₂) + noise, with x ~ N(μ, 1), where each task has its own μ.

    Lacoste, Oreshkin, Chung, Boquet, Rostamzadeh & Krueger 2018, "Uncertainty in Multitask Transfer
    Learning", arXiv:1806.07528, section 4.1. a₁ and a₂ are standard normal, b₁ and b₂ uniform.

    Args:
        frequency: interval of ω, in radians per unit of x.
        place: interval of μ.
        noise: standard deviation of the normal noise on y.
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    input_shape = (1,)
    output_size = 1

    def __init__(
        self,
        *,
        frequency: Interval = (5.0, 7.0),
        place: Interval = (-4.0, 4.0),
        noise: NonNegativeFloat = 0.1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.frequency, self.place, self.noise = frequency, place, noise

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return ω, μ and the noise, [T], a and b, [T, 2]."""
        uniform = draws.uniform(2)
        return {
            "frequency": stretch(uniform[:, 0], self.frequency),
            "place": stretch(uniform[:, 1], self.place),
            "phase": 2 * math.pi * draws.uniform(2),
            "amplitude": draws.normal(2),
            "noise": uniform.new_full((draws.count,), self.noise),
        }

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, 1] and y [T, n, 1]."""
        x = task["place"][:, None, None] + draws.normal(n, 1)
        multiples = task["frequency"][:, None] * x.new_tensor([1.0, 2.0])
        waves = (x * multiples[:, None] + task["phase"][:, None]).sin()  # [T, n, 2]
        y = (waves * task["amplitude"][:, None]).sum(2, keepdim=True)
        return x, y + self.noise * draws.normal(n, 1)
