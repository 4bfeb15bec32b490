"""A network that maps a task to the settings of its inner optimizer."""

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
from metarun.figures import Figure
from metarun.rules.perceptron import draw, perceptron
from metarun.rules.rule import Decay, Parameters, UpdateRule, at_step, zeros
from metarun.rules.seen import settings_figure
from metarun.tasks import Examples

Feature = Literal["means", "norms", "loss", "examples"]

_LOG_RANGE = 10.0  # divides the logs of norms and losses


class Hypernet(UpdateRule):
    """v ← μ v + ∇L(φ), φ ← (1 − λ) φ − α v, with α, μ and λ computed for each task, layer and step.

    A "layer" is one weight or one bias tensor, as in the code of ALFA (Baik et al. 2020, arXiv:2011.00209,
    equations 2 to 4), which uses the features `means`. At every step, a network f maps features of the task
    to one number u for each setting and layer; f is trained through the inner loop. α is a learned rate times
    exp(u), λ is a learned scale times 1 + u, and μ is the sigmoid of a learned number plus u. Rates and
    scales are learned for each layer and step. u starts at zero, so adaptation starts as gradient descent
    with one rate.

    Args:
        lr: initial value of all rates α.
        per_step: number of steps with their own rates and scales; later steps use those of the last step.
        weight_decay: initial value of the scales of λ.
        momentum: initial value of μ; 0: no momentum.
        features: inputs of f at every step: `means` of each layer's parameters and gradients, the logs of
            their root mean squares (`norms`), the log of the `loss` on the support set, and a learned
            embedding of its `examples` (a perceptron of input and target, averaged over the examples).
        hidden: units of f's two hidden layers; null: the number of f's inputs (ALFA has one such layer).
        embedding: size of the embedding of the support set, if `examples` is a feature.
        input_shape: shape of one example.
        output_size: outputs of the model.

    Raises:
        ConfigError: no features, or a feature twice.
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
            raise ConfigError(f"@rule.features={list(features)}: expected one feature or more, each once")
        self.lr, self.weight_decay, self.momentum = lr, weight_decay, momentum
        self.per_step = max(per_step, 1)
        self.features, self.hidden, self.embedding = tuple(features), hidden, embedding
        self.output_size = output_size
        if "examples" in features:
            self.encoder = perceptron(math.prod(input_shape) + output_size, embedding, embedding)

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Create f for these layers, and the rates, scales and momenta that it modulates."""
        self.layers = list(initial)
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
        """Return zero velocities, and zero features of the task."""
        p = next(iter(params.values()))
        features = {"loss": p.new_zeros(len(p)), "examples": p.new_zeros(len(p), self.embedding)}
        return {
            "velocity": zeros(params) if self.momentum else {},
            **{name: value for name, value in features.items() if name in self.features},
        }

    def observe(self, state: dict[str, Any], examples: Examples, losses: Tensor) -> dict[str, Any]:
        """Store the support loss and the embedding of the support set, if they are features."""
        features: dict[str, Tensor] = {}
        if "loss" in self.features:
            features["loss"] = losses
        if "examples" in self.features:
            x, y = examples.x.flatten(2), examples.y
            targets = y if y.is_floating_point() else F.one_hot(y, max(self.output_size, 2))
            targets = targets[..., -self.output_size :].to(x.dtype)
            embedded = self.encoder(torch.cat([x, targets], -1))
            if examples.mask is None:
                features["examples"] = embedded.mean(1)
            else:
                mask = examples.mask[..., None].to(x.dtype)
                features["examples"] = (embedded * mask).sum(1) / mask.sum(1).clamp_min(1)
        return {**state, **features}

    def settings(self, params: Parameters, grads: Parameters, state: dict[str, Any], step: int) -> Tensor:
        """Return α, λ and, with momentum, μ of each layer for this step of each task, [T, 2 or 3, layers]."""
        columns: dict[Feature, Callable[[], Iterable[Tensor]]] = {
            "means": lambda: [_mean(tensor) for tensor in (*params.values(), *grads.values())],
            "norms": lambda: [_log(_mean(t.square())) / 2 for t in (*params.values(), *grads.values())],
            "loss": lambda: [_log(state["loss"])],
            "examples": lambda: state["examples"].unbind(1),
        }
        inputs = torch.stack([column for feature in self.features for column in columns[feature]()], 1)
        u = self.network(inputs).unflatten(1, (-1, len(params)))
        settings = [at_step(self.rates, step) * u[:, 0].exp(), at_step(self.decays, step) * (1 + u[:, 1])]
        if self.momentum:
            settings.append((self.momenta + u[:, 2]).sigmoid())
        return torch.stack(settings, 1)

    def learned(self, adapt: Callable[[], None]) -> list[Figure]:
        """Return a figure of the rates of each layer over some tasks."""
        layers = self.rates.shape[1]

        def rates(output: Tensor) -> Tensor:
            return self.rates[0] * output.view(len(output), -1, layers)[:, 0].exp()

        found = settings_figure(self.network, adapt, rates, self.layers)
        return [] if found is None else [found]

    def update(
        self, params: Parameters, grads: Parameters, state: dict[str, Any], step: int
    ) -> tuple[Parameters, dict[str, Any]]:
        """Return the parameters after one step with each task's own settings."""
        settings = self.settings(params, grads, state, step)
        new_params, velocity = {}, {}
        for layer, (name, p) in enumerate(params.items()):
            of_layer = settings[:, :, layer].view(*settings.shape[:2], *[1] * (p.dim() - 1)).unbind(1)
            direction = grads[name]
            if self.momentum:
                direction = velocity[name] = of_layer[2] * state["velocity"][name] + direction
            new_params[name] = (1 - of_layer[1]) * p - of_layer[0] * direction
        return new_params, {**state, "velocity": velocity}


def _mean(tensor: Tensor) -> Tensor:
    """Return the mean over all entries of each task's tensor, [T]."""
    return tensor.flatten(1).mean(1)


def _log(positive: Tensor) -> Tensor:
    """Return the log of a positive number, at least that of e⁻²⁰, on the scale of the other features."""
    return positive.clamp_min(math.exp(-2 * _LOG_RANGE)).log() / _LOG_RANGE
