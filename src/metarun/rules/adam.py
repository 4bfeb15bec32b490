"""Adam as a differentiable update rule."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor

from metarun.rules.rule import Parameters, UpdateRule

Decay = Annotated[float, Field(ge=0, lt=1)]
State = tuple[Parameters, Parameters]


def _safe_sqrt(v: Tensor) -> Tensor:
    """√v whose derivative at v = 0 is 0 instead of infinite: an entry that never had a gradient stays put."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)


class Adam(UpdateRule):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), with a fresh state for every task.

    With β1 = 0 it is the inner rule of Reptile's published runs (Nichol et al. 2018, arXiv:1803.02999).

    Args:
        lr: the rate α.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squared gradients.
        eps: added to the denominator.
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: NonNegativeFloat = 1e-8,
    ) -> None:
        super().__init__()
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps

    def init(self, params: Parameters) -> State:
        """Return zero first and second moments."""
        return (
            {name: torch.zeros_like(p) for name, p in params.items()},
            {name: torch.zeros_like(p) for name, p in params.items()},
        )

    def update(
        self, params: Parameters, grads: Parameters, state: State, step: int
    ) -> tuple[Parameters, State]:
        """Return the parameters after one bias-corrected step, and the new moments."""
        first = {n: self.beta1 * m + (1 - self.beta1) * grads[n] for n, m in state[0].items()}
        second = {n: self.beta2 * v + (1 - self.beta2) * grads[n].square() for n, v in state[1].items()}
        unbiased1, unbiased2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (step + 1)
        moved = {
            n: p - self.lr * (first[n] / unbiased1) / (_safe_sqrt(second[n] / unbiased2) + self.eps)
            for n, p in params.items()
        }
        return moved, (first, second)
