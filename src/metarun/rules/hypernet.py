"""A network that maps a task to the settings of its own optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import PositiveFloat
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Size, SizeOrNone
from metarun.rules.perceptron import draw, perceptron
from metarun.rules.rule import Decay, Parameters, UpdateRule, at_step, zeros
from metarun.tasks import Examples

Feature = Literal["means", "norms", "loss", "examples"]

_LOG_RANGE = 10.0  # logs of norms and losses are divided by it, as those of gradients are


class Hypernet(UpdateRule):
    """v ← μ v + ∇L(φ), φ ← (1 − λ) φ − α v, with α, μ and λ made from the task, a layer and a step.

    Each weight and each bias is a layer here, as in the code of ALFA (Baik et al. 2020, arXiv:2011.00209,
    equations 2 to 4), whose features are `means`. α is a learned rate of the layer and the step times exp(u),
    λ a learned scale of the layer and the step times 1 + u, and μ a sigmoid of a learned number plus u, where
    u = f(features) starts at zero: adaptation starts as gradient descent with one rate. It is the mapping
    f_θ(x) → u from a task to how it is learned, trained through the inner loop.

    Args:
        lr: where all rates α start.
        per_step: so many steps have rates and scales of their own; later ones those of the last of them.
        weight_decay: where the scales of λ start.
        momentum: where μ starts; 0 for none.
        features: what f sees, at every step: `means` of each layer's parameters and gradients, the logs of
            their root mean squares (`norms`), the log of the `loss` on the support set, and a learned
            embedding of its `examples` (the mean over them of a perceptron of input and target).
        hidden: units of f's two hidden layers; null: as many as inputs (ALFA has one such layer).
        embedding: entries of the embedding of the support set, where `examples` are a feature.
        input_shape: of one example.
        output_size: of the model.

    Raises:
        ConfigError: no features, or one twice.
    """

    def __init__(
        self,
        *,
        lr: PositiveFloat,
        per_step: SizeOrNone = 1,
        weight_decay: float = 0.0,
        momentum: Decay = 0.0,
        features: Sequence[Feature] = ("means", "norms", "loss", "examples"),
        hidden: Size | None = 32,
        embedding: Size = 32,
        input_shape: tuple[int, ...],
        output_size: int,
    ) -> None:
        super().__init__()
        if not features or len(set(features)) < len(features):
            raise ConfigError(f"@rule.features={list(features)}: should be some of them, each once")
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.per_step = max(per_step, 1)
        self.features, self.hidden, self.embedding = tuple(features), hidden, embedding
        self.output_size = output_size
        if "examples" in features:
            self.encoder = perceptron(math.prod(input_shape) + output_size, embedding, embedding)

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Make f for this many layers, and what it modulates."""
        layers = len(initial)
        sizes = {"means": 2 * layers, "norms": 2 * layers, "loss": 1, "examples": self.embedding}
        inputs = sum(sizes[feature] for feature in self.features)
        kinds = 3 if self.momentum else 2
        self.network = perceptron(inputs, self.hidden or inputs, kinds * layers)
        draw(self, generator)
        last = self.network[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        like = next(iter(initial.values()))
        self.rates = nn.Parameter(like.new_full((self.per_step, layers), self.lr))
        self.decays = nn.Parameter(like.new_full((self.per_step, layers), float(self.weight_decay)))
        if self.momentum:
            start = math.log(self.momentum / (1 - self.momentum))
            self.momenta = nn.Parameter(like.new_full((layers,), start))

    def init(self, params: Parameters) -> dict[str, Any]:
        """Return zero velocities, and nothing seen of the task."""
        one = next(iter(params.values()))
        seen = {"loss": one.new_zeros(len(one)), "examples": one.new_zeros(len(one), self.embedding)}
        return {
            "velocity": zeros(params) if self.momentum else {},
            **{feature: each for feature, each in seen.items() if feature in self.features},
        }

    def observe(self, state: dict[str, Any], examples: Examples, losses: Tensor) -> dict[str, Any]:
        """Look at the support set and its loss, where they are features."""
        seen: dict[str, Tensor] = {}
        if "loss" in self.features:
            seen["loss"] = losses
        if "examples" in self.features:
            x, y = examples.x.flatten(2), examples.y
            targets = y if y.is_floating_point() else F.one_hot(y, max(self.output_size, 2))
            targets = targets[..., -self.output_size :].to(x.dtype)
            seen["examples"] = self.encoder(torch.cat([x, targets], -1)).mean(1)
        return {**state, **seen}

    def settings(self, params: Parameters, grads: Parameters, state: dict[str, Any], step: int) -> Tensor:
        """Return α, λ and, with momentum, μ of each layer for this step of each task, [T, 2 or 3, layers]."""
        found: dict[Feature, Callable[[], Iterable[Tensor]]] = {
            "means": lambda: [_mean(each) for each in (*params.values(), *grads.values())],
            "norms": lambda: [_log(_mean(each.square())) / 2 for each in (*params.values(), *grads.values())],
            "loss": lambda: [_log(state["loss"])],
            "examples": lambda: state["examples"].unbind(1),
        }
        inputs = torch.stack([each for feature in self.features for each in found[feature]()], 1)
        u = self.network(inputs).unflatten(1, (-1, len(params)))
        settings = [at_step(self.rates, step) * u[:, 0].exp(), at_step(self.decays, step) * (1 + u[:, 1])]
        if self.momentum:
            settings.append((self.momenta + u[:, 2]).sigmoid())
        return torch.stack(settings, 1)

    def update(
        self, params: Parameters, grads: Parameters, state: dict[str, Any], step: int
    ) -> tuple[Parameters, dict[str, Any]]:
        """Return the parameters after one step with each task's own settings."""
        settings = self.settings(params, grads, state, step)
        moved, velocity = {}, {}
        for layer, (name, p) in enumerate(params.items()):
            own = settings[:, :, layer].view(*settings.shape[:2], *[1] * (p.dim() - 1)).unbind(1)
            way = grads[name]
            if self.momentum:
                way = velocity[name] = own[2] * state["velocity"][name] + way
            moved[name] = (1 - own[1]) * p - own[0] * way
        return moved, {**state, "velocity": velocity}


def _mean(each: Tensor) -> Tensor:
    """Return the mean over all entries of each task's tensor, [T]."""
    return each.flatten(1).mean(1)


def _log(positive: Tensor) -> Tensor:
    """Return the log of a size on the scale of the other features; of nothing it is that of e⁻²⁰."""
    return positive.clamp_min(math.exp(-2 * _LOG_RANGE)).log() / _LOG_RANGE
