"""Sinusoid regression (Finn, Abbeel & Levine 2017, arXiv:1703.03400, section 5.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from metarun.fields import Interval
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import mean_squared_error
from metarun.tasks.regression import REGRESSION
from metarun.tasks.synthetic import Pair, SyntheticSource, stretch


class Sinusoid(SyntheticSource):
    """y = amplitude · sin(frequency · x + phase), each task with its own amplitude, phase and frequency.

    Args:
        amplitude: interval the amplitude is drawn from, uniformly.
        phase: interval of the phase, in radians.
        frequency: interval of the frequency, in radians per unit of x; [1, 1] keeps it fixed as MAML does.
        x_range: interval the inputs are drawn from.
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    input_shape = (1,)
    output_size = 1

    def __init__(
        self,
        *,
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        frequency: Interval = (1.0, 1.0),
        x_range: Interval = (-5.0, 5.0),
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.amplitude, self.phase, self.frequency = amplitude, phase, frequency
        self.x_range = x_range

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return amplitude, phase and frequency, [T] each."""
        uniform = draws.uniform(3)
        return {
            "amplitude": stretch(uniform[:, 0], self.amplitude),
            "phase": stretch(uniform[:, 1], self.phase),
            "frequency": stretch(uniform[:, 2], self.frequency),
        }

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, 1] and y [T, n, 1]."""
        amplitude, phase, frequency = (
            task[name][:, None, None] for name in ("amplitude", "phase", "frequency")
        )
        x = stretch(draws.uniform(n, 1), self.x_range)
        return x, amplitude * (frequency * x + phase).sin()
