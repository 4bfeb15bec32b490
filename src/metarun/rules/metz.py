"""The learned optimizer of Metz et al.: a small perceptron on momenta, second moments and time."""

from __future__ import annotations

import torch
from pydantic import PositiveFloat
from torch import Tensor

from metarun.fields import Size
from metarun.rules.coordinatewise import Coordinatewise, coordinates, sizes
from metarun.rules.perceptron import perceptron
from metarun.rules.rule import Parameters

_MOMENTA = (0.9, 0.99, 0.999)
_SECOND = 0.999
_TIMES = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)

State = tuple[Tensor, Tensor]
"""Running means of gradients, [T, P, 3], and of their squares, [T, P]."""


class MetzMLP(Coordinatewise):
    """Δφ = λ₁ d exp(λ₂ m): a perceptron maps a coordinate's features to direction d and magnitude m.

    The features are g and φ, means of g with decays 0.9, 0.99 and 0.999, the inverse root of the mean of g²,
    the means times that root, and tanh(k / x − 1) of the step k at eleven time scales x. All features except
    those of time are divided by their root mean square over the tensor (Metz et al. 2020, arXiv:2009.11243;
    2022, arXiv:2203.11860).

    Args:
        hidden: units of each of two hidden layers.
        step_scale: λ₁.
        magnitude_scale: λ₂.
    """

    def __init__(
        self,
        *,
        hidden: Size = 32,
        step_scale: PositiveFloat = 0.001,
        magnitude_scale: PositiveFloat = 0.001,
    ) -> None:
        super().__init__()
        self.step_scale, self.magnitude_scale = step_scale, magnitude_scale
        self.network = perceptron(3 + 2 * len(_MOMENTA) + len(_TIMES), hidden, 2)

    def init(self, params: Parameters) -> State:
        """Return zero means."""
        flat = torch.zeros_like(coordinates(params))
        return flat[..., None].expand(*flat.shape, len(_MOMENTA)), flat

    def propose(self, params: Parameters, grads: Parameters, state: State, step: int) -> tuple[Tensor, State]:
        """Map every coordinate's features to its update."""
        g, p = coordinates(grads), coordinates(params)
        decays = g.new_tensor(_MOMENTA)
        momenta = decays * state[0] + (1 - decays) * g[..., None]
        second = _SECOND * state[1] + (1 - _SECOND) * g.square()
        root = (second + 1e-8).rsqrt()[..., None]
        raw = torch.cat([g[..., None], p[..., None], momenta, root, momenta * root], -1)
        features = torch.cat([_normalised(part) for part in torch.split(raw, sizes(params), 1)], 1)
        time = (step / g.new_tensor(_TIMES) - 1).tanh()
        outputs = self.network(torch.cat([features, time.expand(*features.shape[:2], -1)], -1))
        direction, magnitude = outputs.unbind(-1)
        return self.step_scale * direction * (self.magnitude_scale * magnitude).exp(), (momenta, second)


def _normalised(features: Tensor) -> Tensor:
    """Return the features of one tensor's coordinates, [T, p, 9], with a root mean square of 1 over them."""
    return features * (features.square().mean(1, keepdim=True) + 1e-5).rsqrt()
