"""Random quadratic functions: the first problem of learned optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from metarun.fields import Seed
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import sum_squared_error
from metarun.tasks.synthetic import Pair, SyntheticSource
from metarun.tasks.types import Split, Tasks


class Quadratics(SyntheticSource):
    """f(θ) = ‖Wθ − y‖² with random W and y (Andrychowicz et al. 2016, arXiv:1606.04474, section 3.1).

    As a learning task, the rows of W are inputs, the entries of y are targets, θ are the weights of a linear
    model without bias, and f is the sum of squared errors. Support and query set are the same, so the query
    loss is f itself.

    Args:
        dimension: entries of θ, and rows of W.
        entries: distribution of the entries of W and y: `normal` (the paper), or `uniform` in [0, 1) (the
            paper's code).
        seed: determines the functions.
        dtype: dtype of the examples.
    """

    loss = staticmethod(sum_squared_error)
    output_size = 1

    def __init__(
        self,
        *,
        dimension: Annotated[int, Field(ge=1, le=1_000)] = 10,
        entries: Literal["normal", "uniform"] = "normal",
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(shot=dimension, query=dimension, seed=seed, dtype=dtype)
        self.input_shape = (dimension,)
        self.entries = entries

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return functions first_episode … first_episode + count − 1 of a split."""
        tasks = super().batch(split, first_episode, count)
        return replace(tasks, query=tasks.support)

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return W [T, d, d] and y [T, d]."""
        (d,) = self.input_shape
        draw = draws.normal if self.entries == "normal" else draws.uniform
        return {"W": draw(d, d), "y": draw(d)}

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:  # noqa: ARG002
        """Return the rows of W and the entries of y, [T, d, d] and [T, d, 1]."""
        return task["W"], task["y"][..., None]
