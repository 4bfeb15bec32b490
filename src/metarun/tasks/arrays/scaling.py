"""Standardise inputs by the mean and deviation of the training rows, and fill in missing values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.errors import ConfigError

Scale = Literal["auto", "standard", "none"]
Numbers = NDArray[np.float64] | NDArray[np.uint8]


@dataclass(frozen=True)
class Scaling:
    """The scaling of inputs: missing values become the mean, then (x − shift) / divisor.

    Attributes:
        mean: mean of the known rows, [1, *shape] with size 1 along the dimensions that are averaged over.
        shift: the number to subtract, shaped like `mean`.
        divisor: the number to divide by, shaped like `mean`; infinite for a constant column, which becomes 0.
    """

    mean: NDArray[np.float64]
    shift: NDArray[np.float64]
    divisor: NDArray[np.float64]

    @classmethod
    def fit(cls, x: Numbers, known: NDArray[np.bool_], scale: Scale) -> Scaling | None:
        """Return the scaling of inputs; None for uint8 inputs that stay as they are and are read as 0 to 1.

        `standard`: each column, or each channel of inputs [channels, …], has mean 0 and standard deviation 1
        over the known rows. `none`: numbers stay as they are. `auto`: `none` for uint8, else `standard`.

        Args:
            x: inputs, [n, *shape].
            known: True at training rows, [n]; if there are none, all rows are used.
            scale: `standard`, `none` or `auto`, as above.
        """
        if x.dtype == np.uint8 and scale != "standard":
            return None
        rows = x[known] if known.any() else x
        over = (0, *range(2, x.ndim))  # all but the columns, or channels
        with np.errstate(all="ignore"):
            finite = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
            mean = _nanmean(finite, over)
            spread = np.sqrt(_nanmean((finite - mean) ** 2, over))
        spread = np.where(np.isnan(spread), np.inf, spread)
        if scale == "none":
            return cls(mean, np.zeros_like(mean), np.ones_like(mean))
        return cls(mean, mean, np.where(spread > 1e-12 * (1 + np.abs(mean)), spread, np.inf))

    def apply(self, x: Numbers, dtype: torch.dtype) -> Tensor:
        """Return inputs [n, *shape] without NaN.

        Raises:
            ConfigError: a scaled number is too large for the dtype.
        """
        with np.errstate(all="ignore"):
            values = np.where(np.isfinite(x), x, self.mean).astype(np.float64)
            result = torch.from_numpy((values - self.shift) / self.divisor).to(dtype)
        if not result.isfinite().all():
            raise ConfigError(
                f"the numbers are up to {np.abs(values).max():g}: too large for "
                f"{str(dtype).removeprefix('torch.')}"
            )
        return result

    def undone(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return scaled values [n, *shape] in their original units; a constant column gives its constant."""
        divisor = np.where(np.isfinite(self.divisor), self.divisor, 0.0)
        result: NDArray[np.float64] = values * divisor + self.shift
        return result

    def plain(self) -> dict[str, Any]:
        """Return the scaling as plain values for a file; infinite divisors are None."""
        divisors = [value if np.isfinite(value) else None for value in self.divisor.ravel().tolist()]
        shape = list(self.mean.shape)
        return {
            "shape": shape,
            "mean": self.mean.ravel().tolist(),
            "shift": self.shift.ravel().tolist(),
            "divisor": divisors,
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Scaling:
        """Return the scaling that `plain()` has written."""
        divisors = [np.inf if value is None else value for value in plain["divisor"]]
        parts = (np.array(values, dtype=np.float64) for values in (plain["mean"], plain["shift"], divisors))
        return cls(*(part.reshape(plain["shape"]) for part in parts))


def scaled(x: Numbers, scaling: Scaling | None, dtype: torch.dtype) -> Tensor:
    """Return inputs as a tensor without NaN; uint8 without a scaling stays as it is."""
    return torch.from_numpy(np.ascontiguousarray(x)) if scaling is None else scaling.apply(x, dtype)


def scaled_targets(y: NDArray[Any], scaling: Scaling | None, dtype: torch.dtype) -> Tensor:
    """Return targets [n, …] as a tensor [n, d]."""
    numbers = y.reshape(len(y), -1).astype(np.float64)
    return torch.as_tensor(numbers, dtype=dtype) if scaling is None else scaling.apply(numbers, dtype)


def _nanmean(x: NDArray[np.float64], over: tuple[int, ...]) -> NDArray[np.float64]:
    counts = np.isfinite(x).sum(over, keepdims=True)
    total: NDArray[np.float64] = np.nansum(x, over, keepdims=True)
    return np.where(counts > 0, total / np.maximum(counts, 1), 0.0)
