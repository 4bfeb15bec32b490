"""Gradient descent with one fixed rate, plain and with momentum."""

from __future__ import annotations

from pydantic import NonNegativeFloat

from metarun.errors import ConfigError
from metarun.rules.rule import Decay
from metarun.rules.transformations import AddDecayedWeights, Chain, Trace, Transformation


class SGD(Chain):
    """φ ← φ − α ∇L(φ), the inner loop of MAML (Finn et al. 2017, arXiv:1703.03400, equation 1).

    Args:
        lr: the rate α.
    """

    def __init__(self, *, lr: NonNegativeFloat) -> None:
        super().__init__(lr=lr)


class Momentum(Chain):
    """v ← μ v + (1 − d) g and φ ← φ − α v (Polyak 1964), as torch.optim.SGD; the first v is g itself.

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
        if nesterov and (dampening != 0 or momentum == 0):
            raise ConfigError("@rule.nesterov=true needs @rule.dampening=0 and @rule.momentum above 0")
        steps: list[Transformation] = [AddDecayedWeights(weight_decay)] if weight_decay else []
        if momentum:  # without momentum torch.optim ignores dampening too
            steps.append(Trace(lambda name, step: momentum, dampening, nesterov))  # noqa: ARG005
        super().__init__(*steps, lr=lr)
        self.momentum, self.weight_decay = momentum, weight_decay
