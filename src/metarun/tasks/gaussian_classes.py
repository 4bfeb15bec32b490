"""Normally distributed classes, whose best classifier is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from metarun.tasks.draws import Draws
from metarun.tasks.gaussian_process import Positive, PositiveInterval
from metarun.tasks.metrics import ACCURACY, CALIBRATION_ERROR, cross_entropy
from metarun.tasks.synthetic import Pair, SyntheticSource, stretch


class GaussianClasses(SyntheticSource):
    """x ~ N(m_k, σ² I) for class k, with m_k ~ N(0, τ² I) and τ drawn for each task.

    Every task has `shot` support and `query` query examples of each class, in random order.

    Args:
        way: number of classes.
        dimension: entries of x.
        spread: interval of τ, drawn uniformly.
        width: σ.
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    loss = staticmethod(cross_entropy)
    metrics = (ACCURACY, CALIBRATION_ERROR)
    targets = "classes"

    def __init__(
        self,
        *,
        way: Annotated[int, Field(ge=2, le=1_000)] = 5,
        dimension: Annotated[int, Field(ge=1, le=10_000)] = 8,
        spread: PositiveInterval = (0.5, 1.5),
        width: Positive = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.classes = self.output_size = way
        self.input_shape = (dimension,)
        self.spread, self.width = spread, width

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return τ and σ, [T] each, and the means, [T, way, d]."""
        spread = stretch(draws.uniform(), self.spread)
        means = spread[:, None, None] * draws.normal(self.classes, *self.input_shape)
        return {"spread": spread, "width": spread.new_full((draws.count,), self.width), "means": means}

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return x [T, n, d] and labels y [T, n], every class equally often."""
        y = draws.choose(n, n) % self.classes
        means = task["means"].gather(1, y[..., None].expand(-1, -1, *self.input_shape))
        return means + self.width * draws.normal(n, *self.input_shape), y
