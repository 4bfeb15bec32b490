"""The mechanisms that generate rows of random tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from metarun.tasks.draws import Draws
from metarun.tasks.products import product

Activation = Literal["tanh", "relu", "sine", "absolute", "linear", "step"]
ACTIVATIONS: tuple[Activation, ...] = ("tanh", "relu", "sine", "absolute", "linear", "step")
_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sine": torch.sin,
    "absolute": torch.abs,
    "linear": lambda x: x,
    "step": torch.sign,
}


@dataclass(frozen=True)
class Network:
    """Layers of units; a unit is the activation of a random weighted sum of the units before it, plus noise.

    Attributes:
        columns: largest number of columns of a table.
        outputs: number of targets.
        most_layers: largest number of layers of a task.
        layers: number of layers of each task, [T].
        causes: number of units of the first layer that the other layers depend on, [T].
        activation: index of each task's activation in `activations`, [T].
        activations: names of the activations.
        sparsity: share of weights that are zero, [T].
        noise: standard deviation of a unit's noise, [T].
        correlation: share of the variance of first-layer units that comes from common causes, [T].
    """

    columns: int
    outputs: int
    most_layers: int
    layers: Tensor
    causes: Tensor
    activation: Tensor
    activations: tuple[Activation, ...]
    sparsity: Tensor
    noise: Tensor
    correlation: Tensor

    @property
    def units(self) -> int:
        """The number of units of a layer: enough for columns and targets."""
        return self.columns + self.outputs

    def rows(self, draws: Draws, columns: Tensor, rows: int, is_causal: Tensor) -> tuple[Tensor, Tensor]:
        """Return columns [T, rows, columns], and targets [T, rows, outputs] of standard deviation 1.

        Args:
            draws: random numbers.
            columns: number of columns of each table, [T]; a perceptron depends on these columns only.
            rows: number of rows.
            is_causal: [T]. True: columns and targets are random units; False: columns are the first layer,
                and targets are units of the last layer.
        """
        first = layer = correlated(draws, draws.normal(rows, self.units), self.correlation)
        most = torch.where(is_causal, self.units, columns)
        causes = torch.minimum(self.causes, most)
        layer = layer * (torch.arange(self.units, device=layer.device) < causes[:, None])[:, None]
        layers = []
        for i in range(self.most_layers):
            active = causes if i == 0 else torch.full_like(causes, self.units)
            after = normalised(self._activated(product(layer, self._weights(draws, active))))
            after = after + self.noise[:, None, None] * draws.normal(rows, self.units)
            layer = torch.where((i < self.layers)[:, None, None], after, layer)
            layers.append(layer)
        # A causal table has random units of its layers; layers beyond its own repeat the last layer.
        place = torch.arange(self.most_layers * self.units, device=layer.device)
        repeated = place // self.units >= self.layers[:, None]
        order = (draws.uniform(len(place)) + 2 * repeated).argsort(1)
        of_last = (draws.uniform(self.units)).argsort(1)[:, : self.outputs]
        units = torch.cat(layers, 2)
        targets = torch.where(
            is_causal[:, None, None], _taken(units, order[:, : self.outputs]), _taken(layer, of_last)
        )
        # Shuffle the table's own columns, so that a perceptron's causes are at random places.
        beyond = torch.arange(self.columns, device=layer.device) >= columns[:, None]
        shuffled = (draws.uniform(self.columns) + 2 * beyond).argsort(1)
        x = torch.where(
            is_causal[:, None, None],
            _taken(units, order[:, self.outputs : self.units]),
            _taken(first, shuffled),
        )
        return x, normalised(targets)

    def _weights(self, draws: Draws, active: Tensor) -> Tensor:
        """Return weights [T, units before, units]; a unit has a parent among the first `active` [T] units."""
        weights = draws.normal(self.units, self.units)
        kept = draws.uniform(self.units, self.units) >= self.sparsity[:, None, None]
        parent = (draws.uniform(self.units) * active[:, None]).long()
        kept = kept.scatter(1, parent[:, None], value=True)
        inside = torch.arange(self.units, device=kept.device) < active[:, None]
        kept = kept & inside[..., None]
        scaled: Tensor = weights * kept / kept.sum(1, keepdim=True).sqrt()
        return scaled

    def _activated(self, x: Tensor) -> Tensor:
        result = x
        for place, name in enumerate(self.activations):
            result = torch.where((self.activation == place)[:, None, None], _FUNCTIONS[name](x), result)
        return result


def _taken(x: Tensor, columns: Tensor) -> Tensor:
    """Return the columns [T, k] of x [T, rows, columns]."""
    return x.gather(2, columns[:, None].expand(-1, x.shape[1], -1))


def normalised(x: Tensor) -> Tensor:
    """Return columns with mean 0 and standard deviation 1 over the rows, [T, rows, columns]."""
    x = x - x.mean(1, keepdim=True)
    scaled: Tensor = x / x.square().mean(1, keepdim=True).sqrt().clamp_min(1e-6)
    return scaled


def correlated(draws: Draws, x: Tensor, share: Tensor) -> Tensor:
    """Return columns [T, rows, columns] whose variance comes to a share [T] from a few common causes."""
    causes = max(1, x.shape[2] // 4)
    mixing = draws.normal(causes, x.shape[2]) / causes**0.5
    common = product(draws.normal(x.shape[1], causes), mixing)
    share = share[:, None, None]
    mixed: Tensor = (1 - share).sqrt() * x + share.sqrt() * common
    return mixed


def classes_of(draws: Draws, units: Tensor, ways: Tensor) -> Tensor:
    """Return labels [T, rows]: the first unit cut by thresholds, or the index of the largest unit.

    Args:
        draws: random numbers.
        units: [T, rows, most classes].
        ways: number of classes of each table, [T].
    """
    rows, most = units.shape[1:]
    inside = torch.arange(most, device=units.device) < ways[:, None]  # [T, most]
    bias = 0.5 * draws.normal(most)
    largest = (units + bias[:, None]).masked_fill(~inside[:, None], -torch.inf).argmax(2)
    # Thresholds: the ranks of the first unit are cut into random shares.
    shares = (0.2 + draws.uniform(most)) * inside
    ends = (shares / shares.sum(1, keepdim=True)).cumsum(1)
    ranks = units[:, :, 0].argsort(dim=1, stable=True).argsort(1).double() / rows
    by_threshold = (ranks[..., None] >= ends[:, None]).sum(2).clamp(max=most - 1)
    by_threshold = torch.minimum(by_threshold, ways[:, None] - 1)
    shuffled = (draws.uniform(most) + 2 * ~inside).argsort(1)  # the table's own classes come first
    by_threshold = shuffled.gather(1, by_threshold)
    return torch.where((draws.uniform() < 0.5)[:, None], largest, by_threshold)


def clouds(
    draws: Draws, shape: tuple[int, int, int], ways: Tensor, correlation: Tensor
) -> tuple[Tensor, Tensor]:
    """Return normal clouds, one for each class: x [T, rows, columns] and labels [T, rows].

    Args:
        draws: random numbers.
        shape: number of rows, number of columns and largest number of classes.
        ways: number of classes of each table, [T].
        correlation: see Network.
    """
    rows, columns, most = shape
    spread = 0.3 + 1.2 * draws.uniform()[:, None, None]
    relevant = draws.uniform(columns) < (0.2 + 0.8 * draws.uniform())[:, None]
    means = spread * draws.normal(most, columns) * relevant[:, None]
    labels = (draws.uniform(rows) * ways[:, None]).long()
    noise = correlated(draws, draws.normal(rows, columns), correlation)
    x: Tensor = means.gather(1, labels[..., None].expand(-1, -1, columns)) + noise
    return x, labels


def categorical(draws: Draws, x: Tensor, share: Tensor) -> Tensor:
    """Return x [T, rows, columns], with a share [T] of the columns reduced to two to five values."""
    chosen = draws.uniform(x.shape[2]) < share[:, None]
    levels = 2 + (4 * draws.uniform(x.shape[2])).long()
    ranks = x.argsort(dim=1, stable=True).argsort(1).double() / x.shape[1]
    level = (ranks * levels[:, None]).long()
    values = draws.normal(x.shape[2], 5)  # value of each level, not in the order of the levels
    return torch.where(chosen[:, None], values.gather(2, level.mT).mT, x)
