"""The preprocessing of all tables: standardise columns, fill missing values with 0, pad to a fixed width."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_MOST = 5.0  # standard deviations; larger values are clipped


def standardised(x: Tensor, shots: Tensor, support: int) -> Tensor:
    """Return columns with mean 0 and standard deviation 1 over the support rows; NaN becomes 0, the mean.

    Args:
        x: rows, the support rows first, [T, rows, columns].
        shots: number of support rows that count, [T].
        support: number of support rows with padding.
    """
    known = x[:, :support]
    counts = torch.arange(support, device=x.device) < shots[:, None]
    known = known.masked_fill(~counts[..., None], torch.nan)
    mean = known.nanmean(1, keepdim=True).nan_to_num()
    variance = (known - mean).square().nanmean(1, keepdim=True).nan_to_num()
    scale = torch.where(variance > 1e-12, variance, 1.0).sqrt()
    return ((x - mean) / scale).nan_to_num().clamp(-_MOST, _MOST)


def widened(x: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return rows padded with zeros to `width` columns, scaled by √(width / columns).

    The scale keeps the norm of a row independent of its table's number of columns (Hollmann et al. 2023,
    arXiv:2207.01848, appendix).

    Args:
        x: rows, [T, rows, at most width].
        columns: number of columns of each table, [T].
        width: number of columns of the result.
    """
    missing = width - x.shape[2]
    x = torch.cat([x, x.new_zeros(*x.shape[:2], missing)], 2) if missing else x
    inside = torch.arange(width, device=x.device) < columns[:, None]
    scale = (math.sqrt(width) / columns.to(x.dtype).sqrt())[:, None, None]
    return x * inside[:, None] * scale
