"""Linear regression f(x) = θ1·x + θ0, each task with its own θ: small enough to check by hand."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.tasks.draws import Draws
from metarun.tasks.losses import mean_squared_error
from metarun.tasks.synthetic import Interval, SyntheticSource, stretch


class LinearRegression(SyntheticSource):
    """y = slope · x + intercept + noise, with slope and intercept drawn once a task.

    Args:
        slope: interval of θ1.
        intercept: interval of θ0.
        x_range: interval the inputs are drawn from.
        noise: standard deviation of the normal noise on y.
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    loss = staticmethod(mean_squared_error)
    metrics: dict[str, Any] = {}
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

    def sample(self, draws: Draws, n: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return x [T, n, 1], y [T, n, 1] and the tasks' slope and intercept [T]."""
        chosen = draws.uniform(2)
        slope = stretch(chosen[:, 0], self.slope)
        intercept = stretch(chosen[:, 1], self.intercept)
        x = stretch(draws.uniform(n, 1), self.x_range)
        y = slope[:, None, None] * x + intercept[:, None, None] + self.noise * draws.normal(n, 1)
        return x, y, {"slope": slope, "intercept": intercept}
