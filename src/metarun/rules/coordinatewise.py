"""Learned optimizers: one small network updates every coordinate of every parameter."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from metarun.fields import Size
from metarun.figures import Figure
from metarun.rules.perceptron import draw, perceptron
from metarun.rules.rule import Parameters, UpdateRule
from metarun.rules.seen import surface_figure


def coordinates(params: Parameters) -> Tensor:
    """Return all entries of all parameters, [T, P]."""
    return torch.cat([p.flatten(1) for p in params.values()], 1)


def sizes(params: Parameters) -> list[int]:
    """Return the number of entries of each parameter, without T."""
    return [p[0].numel() for p in params.values()]


def moved(params: Parameters, update: Tensor) -> Parameters:
    """Return the parameters plus an update of all their coordinates, [T, P]."""
    parts = torch.split(update, sizes(params), 1)
    return {name: p + part.view_as(p) for (name, p), part in zip(params.items(), parts, strict=True)}


def log_and_sign(gradient: Tensor, p: float) -> Tensor:
    """Return two features of a gradient, [..., 2]: its size on a log scale and its sign.

    (log|g| / p, sign g) where |g| ≥ e⁻ᵖ, else (−1, eᵖ g) (Andrychowicz et al. 2016, appendix A).
    """
    threshold = math.exp(-p)
    large = gradient.abs() >= threshold
    size = torch.where(large, gradient.abs(), threshold).log() / p
    return torch.stack([size, torch.where(large, gradient.sign(), gradient / threshold)], -1)


class Coordinatewise(UpdateRule):
    """A network for parameters of any number and shape: it can be learned on small models for large ones."""

    coordinatewise = True

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:  # noqa: ARG002
        """Draw the network's weights."""
        draw(self, generator)

    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:
        """Return the parameters plus the network's update of each coordinate, and its state."""
        update, state = self.propose(params, grads, state, step)
        return moved(params, update), state

    def learned(self, adapt: Callable[[], None]) -> list[Figure]:  # noqa: ARG002
        """Return a figure of the updates for gradients of several sizes."""
        return [surface_figure(self)]

    @abstractmethod
    def propose(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Tensor, Any]:
        """Return the update to add to all coordinates, [T, P], and the state."""


class LSTM(Coordinatewise):
    """An LSTM per coordinate on log and sign of its gradient (Andrychowicz et al. 2016, arXiv:1606.04474).

    Forget gates start with a bias of 1, as in the authors' code.

    Args:
        hidden: units of each layer (paper: 20).
        layers: number of layers (paper: 2).
        p: the preprocessing changes from log to linear at |g| = e⁻ᵖ.
        scale: scale of the output.
    """

    def __init__(
        self,
        *,
        hidden: Size = 20,
        layers: Annotated[int, Field(gt=0, le=64)] = 2,
        p: PositiveFloat = 10.0,
        scale: PositiveFloat = 0.1,
    ) -> None:
        super().__init__()
        self.hidden, self.p, self.scale = hidden, p, scale
        inputs = [2, *[hidden] * (layers - 1)]
        self.gates = nn.ModuleList(nn.Linear(size + hidden, 4 * hidden) for size in inputs)
        self.output = nn.Linear(hidden, 1)

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Draw the weights."""
        super().prepare(initial, generator)
        with torch.no_grad():
            for gates in self.gates:
                assert isinstance(gates, nn.Linear)
                gates.bias[self.hidden : 2 * self.hidden] = 1.0

    def init(self, params: Parameters) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return zero outputs and cells for every layer, [T, P, hidden] each."""
        zero = coordinates(params).new_zeros(()).expand(*coordinates(params).shape, self.hidden)
        return tuple((zero, zero) for _ in self.gates)

    def propose(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Tensor, Any]:  # noqa: ARG002
        """Advance the LSTM of every coordinate by one step."""
        x = log_and_sign(coordinates(grads), self.p)
        new_state = []
        for gates, (h, cell) in zip(self.gates, state, strict=True):
            i, f, g, o = gates(torch.cat([x, h], -1)).chunk(4, -1)
            new_cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            x = o.sigmoid() * new_cell.tanh()
            new_state.append((x, new_cell))
        return self.scale * self.output(x).squeeze(-1), tuple(new_state)


class MLP(Coordinatewise):
    """A multi-layer perceptron per coordinate, without memory, on log and sign of its gradient.

    Args:
        hidden: units of each of two hidden layers.
        p: the preprocessing changes from log to linear at |g| = e⁻ᵖ.
        scale: scale of the output.
    """

    def __init__(self, *, hidden: Size = 20, p: PositiveFloat = 10.0, scale: PositiveFloat = 0.1) -> None:
        super().__init__()
        self.p, self.scale = p, scale
        self.network = perceptron(2, hidden, 1)

    def propose(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Tensor, Any]:  # noqa: ARG002
        """Map every coordinate's gradient to its update."""
        return self.scale * self.network(log_and_sign(coordinates(grads), self.p)).squeeze(-1), state
