"""Linear regression f(x) = θ1·x + θ0, each task with its own θ: small enough to check by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.fields import Interval
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import mean_squared_error
from metarun.tasks.regression import REGRESSION
from metarun.tasks.synthetic import Pair, SyntheticSource, stretch


class LinearRegression(SyntheticSource):
    """y = slope · x + intercept + noise, with slope and intercept drawn per task.

    Args:
        slope: interval of θ1.
        intercept: interval of θ0.
        x_range: interval the inputs are drawn from.
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
        slope: Interval = (-2.0, 2.0),
        intercept: Interval = (-1.0, 1.0),
        x_range: Interval = (-1.0, 1.0),
        noise: NonNegativeFloat = 0.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.slope, self.intercept, self.x_range, self.noise = slope, intercept, x_range, noise

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return slope and intercept, [T] each."""
        uniform = draws.uniform(2)
        return {
            "slope": stretch(uniform[:, 0], self.slope),
            "intercept": stretch(uniform[:, 1], self.intercept),
        }

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, 1] and y [T, n, 1]."""
        slope, intercept = (task[name][:, None, None] for name in ("slope", "intercept"))
        x = stretch(draws.uniform(n, 1), self.x_range)
        return x, slope * x + intercept + self.noise * draws.normal(n, 1)
