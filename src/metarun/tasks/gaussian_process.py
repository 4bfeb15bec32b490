"""Draws of Gaussian processes, whose exact posterior is known: the test bed of neural processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, NonNegativeFloat
from torch import Tensor

from metarun.fields import Interval, ordered
from metarun.tasks.draws import Draws
from metarun.tasks.kernels import KERNELS, Kernel, covariance
from metarun.tasks.metrics import mean_squared_error
from metarun.tasks.products import product
from metarun.tasks.regression import REGRESSION
from metarun.tasks.synthetic import Pair, SyntheticSource, stretch

Positive = Annotated[float, Field(gt=0, lt=1e6)]
PositiveInterval = Annotated[tuple[Positive, Positive], AfterValidator(ordered)]

HYPERPARAMETERS = ("lengthscale", "scale", "period")

# In units of the variance: Cholesky's algorithm fails where two points nearly coincide and there is no noise.
_JITTER = 1e-8


class GaussianProcess(SyntheticSource):
    """y = f(x) + noise, with f drawn from a Gaussian process with mean 0 and the task's own covariance.

    The set-up of Lee et al. 2020, arXiv:2008.02956, and Nguyen & Grover 2022, arXiv:2207.04179, section 5.1.
    Support and query points are of the same draw. `info` holds what the exact posterior needs.

    Args:
        kernel: see `covariance`.
        lengthscale: interval of ℓ, drawn uniformly for each task.
        scale: interval of s.
        period: interval of p, of the periodic kernel.
        noise: standard deviation of the normal noise on y.
        dimension: entries of x.
        x_range: interval of the inputs.
        **shared: shot, query, train_shot and seed (SyntheticSource).
    """

    loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    output_size = 1

    def __init__(
        self,
        *,
        kernel: Kernel = "rbf",
        lengthscale: PositiveInterval = (0.1, 0.6),
        scale: PositiveInterval = (0.1, 1.0),
        period: PositiveInterval = (0.1, 0.5),
        noise: NonNegativeFloat = 0.02,
        dimension: Annotated[int, Field(ge=1, le=1_000)] = 1,
        x_range: Interval = (-2.0, 2.0),
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.input_shape = (dimension,)
        self.kernel, self.noise, self.x_range = kernel, noise, x_range
        self.lengthscale, self.scale, self.period = lengthscale, scale, period

    def task(self, draws: Draws) -> dict[str, Tensor]:
        """Return ℓ, s, p, the noise and the kernel's index in KERNELS, [T] each."""
        uniform = draws.uniform(3)
        return {
            "lengthscale": stretch(uniform[:, 0], self.lengthscale),
            "scale": stretch(uniform[:, 1], self.scale),
            "period": stretch(uniform[:, 2], self.period),
            "noise": uniform.new_full((draws.count,), self.noise),
            "kernel": torch.full((draws.count,), KERNELS.index(self.kernel), device=uniform.device),
        }

    def examples_of(
        self, draws: Draws, task: Mapping[str, Tensor], queries: int, shots: int
    ) -> tuple[Pair, Pair]:
        """Return query and support points of the same draws."""
        # The Cholesky factor is triangular, so that the query set does not depend on the number of shots.
        query, support = self._drawn(draws, queries), self._drawn(draws, shots)
        x, z = (torch.cat(parts, 1) for parts in zip(query, support, strict=True))
        kernel = covariance(self.kernel, x, x, **{name: task[name] for name in HYPERPARAMETERS})
        extra = task["noise"].square() + _JITTER * task["scale"].square()
        factor = torch.linalg.cholesky(kernel + torch.diag_embed(extra[:, None].expand(x.shape[:2])))
        y = product(factor, z[..., None])
        return (x[:, :queries], y[:, :queries]), (x[:, queries:], y[:, queries:])

    def _drawn(self, draws: Draws, n: int) -> Pair:
        return stretch(draws.uniform(n, *self.input_shape), self.x_range), draws.normal(n)

    def examples(self, draws: Draws, task: Mapping[str, Tensor], n: int) -> Pair:
        """Return n points of draws of their own, x [T, n, d] and y [T, n, 1]."""
        return self.examples_of(draws, task, n, 0)[0]
