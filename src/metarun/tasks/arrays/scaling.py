"""Inputs of a common size: standardised by what the training has seen, missing values at its mean."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Scale = Literal["auto", "standard", "none"]


def scaled(
    x: NDArray[np.float64] | NDArray[np.uint8], known: NDArray[np.bool_], scale: Scale, dtype: torch.dtype
) -> Tensor:
    """Return inputs as a tensor without NaN.

    `standard`: each column, or each channel of inputs [channels, …], has mean 0 and standard deviation 1 over
    the known rows; a constant one becomes 0, and so does a missing value. `none`: as they are; a missing
    value becomes the mean of the known ones. `auto`: `none` for uint8, read as 0 to 1, else `standard`.

    Args:
        x: inputs, [n, *shape].
        known: the rows that the training sees, [n]; if there are none, all count.
        scale: see above.
        dtype: of the result; uint8 stays as it is.
    """
    if x.dtype == np.uint8 and scale != "standard":
        return torch.from_numpy(np.ascontiguousarray(x))
    rows = x[known] if known.any() else x
    over = (0, *range(2, x.ndim))  # all but the columns, or channels
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(rows), rows, np.nan).astype(np.float64)
        mean = _nanmean(finite, over)
        spread = np.sqrt(_nanmean((finite - mean) ** 2, over))
    values = np.where(np.isfinite(x), x, mean).astype(np.float64)
    if scale != "none":
        values = (values - mean) / np.where(spread > 1e-12 * (1 + np.abs(mean)), spread, np.inf)
    return torch.from_numpy(values).to(dtype)


def _nanmean(x: NDArray[np.float64], over: tuple[int, ...]) -> NDArray[np.float64]:
    counts = np.isfinite(x).sum(over, keepdims=True)
    total: NDArray[np.float64] = np.nansum(x, over, keepdims=True)
    return np.where(counts > 0, total / np.maximum(counts, 1), 0.0)
