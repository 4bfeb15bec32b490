"""Covariance functions of Gaussian processes."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor

Kernel = Literal["rbf", "matern52", "periodic"]

KERNELS: tuple[Kernel, ...] = ("rbf", "matern52", "periodic")


def covariance(
    kernel: Kernel, x: Tensor, other: Tensor, *, lengthscale: Tensor, scale: Tensor, period: Tensor
) -> Tensor:
    """Return s² k(x, x') for all pairs, [T, n, m] (Rasmussen & Williams 2006, chapter 4).

    Args:
        kernel: `rbf` exp(−r²/2ℓ²); `matern52` (1 + √5 r/ℓ + 5r²/3ℓ²) exp(−√5 r/ℓ);
            `periodic` exp(−2 Σ sin²(π d/p)/ℓ²) over the differences d of entries; r is Euclidean.
        x: [T, n, d].
        other: [T, m, d].
        lengthscale: ℓ, [T].
        scale: s, [T].
        period: p, [T], of `periodic`.
    """
    length, variance = lengthscale[:, None, None], scale.square()[:, None, None]
    differences = x[:, :, None] - other[:, None]
    if kernel == "periodic":
        phases = (math.pi * differences / period[:, None, None, None]).sin()
        return variance * (-2 * phases.square().sum(3) / length.square()).exp()
    squares = differences.square().sum(3)
    if kernel == "rbf":
        return variance * (-squares / (2 * length.square())).exp()
    r = squares.sqrt() * math.sqrt(5) / length
    return variance * (1 + r + r.square() / 3) * (-r).exp()
