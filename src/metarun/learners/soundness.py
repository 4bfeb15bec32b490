"""What a model must not do, since tasks would share it: keep something in a forward pass, or draw."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from metarun.errors import ConfigError, in_one_line

Module = TypeVar("Module", bound=nn.Module)


def check_layers(model: nn.Module) -> None:
    """Raise ConfigError for a layer of torch's that keeps running statistics or drops out."""
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            raise ConfigError(
                f"model: {name} keeps running statistics, which tasks would share: "
                f"build it with track_running_stats=False"
            )
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ConfigError(
                f"model: {name} drops out at random, from a generator that a resumed run would not have; "
                f"build it with p=0"
            )


def check_forward(model: nn.Module, x: Tensor, other: Tensor) -> None:
    """Raise ConfigError where a forward pass on real examples changes anything that the next one depends on.

    A copy of the model is called in both modes, with other examples in between.

    Args:
        model: any module.
        x: examples of one task, [n, …].
        other: examples of the same kind, [m, …].

    Raises:
        ConfigError: a forward pass writes a buffer or a parameter, keeps something elsewhere, draws random
            numbers, or fails.
    """
    model = copied(model)
    kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: each.detach().clone() for name, each in kept.items()}

    def forward(training: bool, x: Tensor) -> Tensor:
        model.train(training)
        try:
            output = model(x)
        except Exception as error:  # of a user's class, of any kind
            raise ConfigError(
                f"model: {type(model).__name__} fails on the data: {in_one_line(error)}"
            ) from error
        if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(x):
            shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ConfigError(
                f"model: {type(model).__name__} maps {len(x)} examples {list(x.shape)} to {shape}, expected "
                f"[{len(x)}, outputs]"
            )
        return output

    with torch.no_grad(), _generators_unchanged(type(model).__name__, x.device):
        first = {training: forward(training, x) for training in (False, True)}
        forward(True, other)
        again = {training: forward(training, x) for training in (True, False)}
    for name, each in (*model.named_parameters(), *model.named_buffers()):
        if name not in before or not _equal(each, before[name]):
            raise ConfigError(
                f"model: its forward pass writes {name}, which tasks would share: keep no running statistics "
                f"or counters there"
            )
    if not all(_equal(first[training], again[training]) for training in (False, True)):
        raise ConfigError(
            f"model: {type(model).__name__} predicts otherwise after a forward pass than before it: keep "
            f"nothing from one forward pass to the next, since tasks would share it"
        )


@contextmanager
def _generators_unchanged(name: str, device: torch.device) -> Iterator[None]:
    cards = [device] if device.type == "cuda" else []

    def states() -> list[object]:
        cpu, numpy = torch.get_rng_state().tolist(), np.random.get_state()
        on_cards = [torch.cuda.get_rng_state(card).tolist() for card in cards]
        return [cpu, on_cards, random.getstate(), numpy[1].tolist(), numpy[2:]]  # type: ignore[index]

    with torch.random.fork_rng(devices=cards):
        before = states()
        yield
        if states() != before:
            raise ConfigError(
                f"model: the forward pass of {name} draws random numbers (dropout?), which no other way to "
                f"compute it, and no resumed run, would draw again: build it with p=0"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.device.type == "cpu":
        return torch.equal(one.detach().nan_to_num(), other.detach().nan_to_num())
    return torch.allclose(one, other, rtol=1e-4, equal_nan=True)  # additions have no fixed order on a GPU


def copied(model: Module) -> Module:
    """Return a deep copy, of a tensor that a forward pass has left there its value, if it has one."""
    copies: dict[int, object] = {
        id(each): _value(each)
        for module in model.modules()
        for each in vars(module).values()
        if isinstance(each, Tensor)
    }
    return copy.deepcopy(model, copies)


def _value(left: Tensor) -> Tensor | None:
    try:
        return left.detach().clone()
    except RuntimeError:  # one of vmap's, which ended with it
        return None
