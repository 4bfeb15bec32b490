"""Matrix products whose rounding does not depend on the number of tasks in a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of each task, [T, n, m], for a [T, n, k] and b [T, k, m].

    torch's batched product may round differently for other numbers of tasks, but an episode must be the same
    in every batch.
    """
    return torch.stack([left @ right for left, right in zip(a, b, strict=True)])
