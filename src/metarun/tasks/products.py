"""Matrix products whose bits do not depend on which tasks are computed together."""

from __future__ import annotations

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return the matrix product of each task, a [T, n, k] and b [T, k, m] to [T, n, m].

    torch's batched product may round otherwise for other numbers of tasks, and an episode has to be the same
    wherever it is drawn.
    """
    return torch.stack([left @ right for left, right in zip(a, b, strict=True)])
