"""The learned optimizer of Metz et al.: a small perceptron on momenta, second moments and time."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metarun.rules.coordinatewise import Coordinatewise, perceptron
from metarun.rules.rule import Parameters

_MOMENTA = (0.9, 0.99, 0.999)
_SECOND = 0.999
_TIMES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)

State = tuple[Tensor, Tensor]
"""Running means of gradients, [T, P, 3], and of their squares, [T, P]."""


class MetzMLP(Coordinatewise):
    """Δφ = λ₁ d exp(λ₂ m), where a perceptron makes direction d and magnitude m of a coordinate's features.

    They are g and φ, means of g with decays 0.9, 0.99 and 0.999, the inverse root of the mean of g², the
    means times that root, and tanh(k / x − 1) of the step k at eleven time scales x; all but the last divided
    by their root mean square over the tensor (Metz et al. 2020, arXiv:2009.11243; 2022, arXiv:2203.11860).

    Args:
        hidden: units of each of two hidden layers.
        step_scale: λ₁.
        magnitude_scale: λ₂.
    """

    def __init__(
        self,
        *,
        hidden: PositiveInt = 32,
        step_scale: PositiveFloat = 0.001,
        magnitude_scale: PositiveFloat = 0.001,
    ) -> None:
        super().__init__()
        self.step_scale, self.magnitude_scale = step_scale, magnitude_scale
        self.network = perceptron(3 + 2 * len(_MOMENTA) + len(_TIMES), hidden, 2)

    def init(self, params: Parameters) -> State:
        """Return zero means."""
        flat = torch.cat([torch.zeros_like(p).flatten(1) for p in params.values()], 1)
        return flat[..., None].expand(*flat.shape, len(_MOMENTA)), flat

    def propose(
        self, params: Parameters, grads: Parameters, state: State, step: int
    ) -> tuple[Tensor, State]:
        """Map every coordinate's features to its update."""
        sizes = [p[0].numel() for p in params.values()]
        decays = state[0].new_tensor(_MOMENTA)
        flat = torch.cat([g.flatten(1) for g in grads.values()], 1)
        momenta = decays * state[0] + (1 - decays) * flat[..., None]
        second = _SECOND * state[1] + (1 - _SECOND) * flat.square()
        features = torch.cat(
            [
                _normalised(p.flatten(1), g, m, v)
                for p, g, m, v in zip(
                    params.values(), flat.split(sizes, 1), momenta.split(sizes, 1), second.split(sizes, 1),
                    strict=True,
                )
            ],
            1,
        )  # fmt: skip
        time = (step / state[0].new_tensor(_TIMES) - 1).tanh()
        outputs = self.network(torch.cat([features, time.expand(*features.shape[:2], -1)], -1))
        direction, magnitude = outputs.unbind(-1)
        return self.step_scale * direction * (self.magnitude_scale * magnitude).exp(), (momenta, second)


def _normalised(p: Tensor, g: Tensor, m: Tensor, v: Tensor) -> Tensor:
    """Return the features of one tensor's coordinates, [T, p, 9]."""
    root = (v + 1e-8).rsqrt()[..., None]
    features = torch.cat([g[..., None], p[..., None], m, root, m * root], -1)
    return features * (features.square().mean(1, keepdim=True) + 1e-5).rsqrt()
