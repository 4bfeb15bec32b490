"""Gradient descent with one fixed rate."""

from __future__ import annotations

from typing import Any

from pydantic import NonNegativeFloat

from metarun.rules.rule import Parameters, UpdateRule


class SGD(UpdateRule):
    """φ ← φ − α ∇L(φ), the inner loop of MAML (Finn et al. 2017, arXiv:1703.03400, equation 1).

    Args:
        lr: the rate α.
    """

    def __init__(self, *, lr: NonNegativeFloat) -> None:
        super().__init__()
        self.lr = lr

    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:  # noqa: ARG002
        """Return the parameters one step down the gradient."""
        return {name: p.sub(grads[name], alpha=self.lr) for name, p in params.items()}, state
