"""Gradient descent with momentum, as torch.optim.SGD writes it."""

from __future__ import annotations

from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.errors import ConfigError
from metarun.rules.rule import Decay, Parameters, UpdateRule, zeros


class Momentum(UpdateRule):
    """v ← μ v + (1 − d) g and φ ← φ − α v (Polyak 1964); the first v is g itself.

    Nesterov's variant steps along g + μ v (Sutskever et al. 2013, "On the importance of initialization and
    momentum in deep learning", section 2).

    Args:
        lr: the rate α.
        momentum: the decay μ.
        dampening: d.
        nesterov: whether to look ahead.
        weight_decay: λ, where g = ∇L(φ) + λ φ.

    Raises:
        ConfigError: Nesterov's variant with dampening, or without momentum.
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat,
        momentum: Decay = 0.9,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        if nesterov and (dampening != 0 or momentum == 0):
            raise ConfigError("inner.nesterov=true needs inner.dampening=0 and inner.momentum above 0")
        self.lr, self.momentum, self.dampening = lr, momentum, dampening
        self.nesterov, self.weight_decay = nesterov, weight_decay

    def init(self, params: Parameters) -> Parameters:
        """Return zero velocities."""
        return zeros(params)

    def update(
        self, params: Parameters, grads: Parameters, state: Parameters, step: int
    ) -> tuple[Parameters, Parameters]:
        """Return the parameters moved by their velocities, and these."""
        moved, velocity = {}, {}
        for name, p in params.items():
            g = decayed(grads[name], p, self.weight_decay)
            v = g
            if step and self.momentum:  # without momentum torch.optim knows no dampening either
                v = self.momentum * state[name] + (1 - self.dampening) * g
            moved[name] = p.sub(g + self.momentum * v if self.nesterov else v, alpha=self.lr)
            velocity[name] = v
        return moved, velocity


def decayed(gradient: Tensor, p: Tensor, weight_decay: float) -> Tensor:
    """Return the gradient of the loss plus λ/2 ‖φ‖²."""
    return gradient.add(p, alpha=weight_decay) if weight_decay else gradient
