"""What a model must not do, since tasks would share it: keep something in a forward pass, or draw."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from metarun.errors import ConfigError, in_one_line
from metarun.learners.functional import Places

Module = TypeVar("Module", bound=nn.Module)


def check_layers(model: nn.Module) -> None:
    """Raise ConfigError for a layer of torch's that keeps running statistics or drops out."""
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False):
            raise ConfigError(
                f"model: {name} keeps running statistics, which tasks would share: "
                f"build it with track_running_stats=False"
            )
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ConfigError(f"model: {name} is lazy, and has no weights yet: build it with its sizes")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ConfigError(
                f"model: {name} drops out at random, from a generator that a resumed run would not have; "
                f"build it with p=0"
            )


def check_padding(model: nn.Module) -> None:
    """Raise ConfigError for a batch norm, whose statistics would count examples that only fill up tasks."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"model: {name} is a batch norm, which would count the padding of smaller tasks",
                "@model.norm=group, or another",
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

    with torch.no_grad(), _generators_unchanged(type(model).__name__, x.device):
        first = {training: _forward(model, x, training=training) for training in (False, True)}
        _forward(model, other, training=True)
        again = {training: _forward(model, x, training=training) for training in (True, False)}
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


def _forward(model: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    """Return what a model makes of examples [n, …], or raise ConfigError where it fails or changes them."""
    model.train(training)
    given = x.clone()
    try:
        output = model(given)
    except Exception as error:  # of a user's class, of any kind
        raise ConfigError(f"model: {type(model).__name__} fails on the data: {in_one_line(error)}") from error
    if not _equal(given, x):
        raise ConfigError(
            f"model: {type(model).__name__} writes into its input: build its first layer without inplace=True"
        )
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(x):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigError(
            f"model: {type(model).__name__} maps {len(x)} examples {list(x.shape)} to {shape}, expected "
            f"[{len(x)}, outputs]"
        )
    return output


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
    """Return a deep copy; of a tensor that a forward pass has left somewhere its value, if it still has one.

    Raises:
        ConfigError: the model holds something that cannot be copied.
    """
    registered = {id(each) for each in (*model.parameters(), *model.buffers())}
    copies: dict[int, object] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                copies |= {id(t): _value(t) for t in _tensors(value) if id(t) not in registered}
    try:
        return copy.deepcopy(model, copies)
    except Exception as error:  # of what a user's class holds, of any kind
        raise ConfigError(
            f"model: {type(model).__name__} cannot be copied ({in_one_line(error)}): keep no locks, files or "
            f"the like in it"
        ) from error


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in an attribute, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def _value(left: Tensor) -> Tensor | None:
    try:
        return left.detach().clone()
    except RuntimeError:  # one of vmap's, which ended with it
        return None


def check_replacement(model: nn.Module, x: Tensor) -> None:
    """Raise ConfigError where a model with other tensors as its parameters is not what it should be.

    Outputs and gradients are compared with those of a copy that has these parameters as its own.

    Args:
        model: any module that `check_forward` has nothing against.
        x: examples of one task, [n, …].
    """
    model, other = copied(model), copied(model)
    places, generator = Places(model), torch.Generator().manual_seed(0)
    names = [name for name, p in model.named_parameters() if p.is_floating_point()]
    moved = {}
    with torch.no_grad():
        model(x.clone())
        for name in names:
            p = other.get_parameter(name)
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
            moved[name] = p.detach().clone().requires_grad_()
            p.requires_grad_()
    try:
        with torch.enable_grad():
            found = places.call(model, moved, (x.clone(),))
            gradients = _gradients(found, list(moved.values()))
            expected = other(x.clone())
            pairs = zip(gradients, _gradients(expected, [other.get_parameter(n) for n in names]), strict=True)
    except Exception as error:  # of a user's class, of any kind
        raise ConfigError(
            f"model: {type(model).__name__} fails with parameters that are put into it: {in_one_line(error)}"
        ) from error
    if not (_close(found, expected) and all(_close(one, another) for one, another in pairs)):
        raise ConfigError(
            f"model: {type(model).__name__} does not compute with parameters that are put into it: it "
            f"recomputes (activation checkpointing), reaches a weight by another name, or keeps what it once "
            f"computed from one"
        )


def _gradients(output: Tensor, tensors: list[Tensor] | list[nn.Parameter]) -> tuple[Tensor, ...]:
    if not output.requires_grad:
        return tuple(torch.zeros_like(each) for each in tensors)
    scalar = output.square().sum() + output.sum()
    found: tuple[Tensor, ...] = torch.autograd.grad(scalar, tensors, materialize_grads=True)
    return found


def _close(one: Tensor, other: Tensor) -> bool:
    """Say whether two computations of the same in another order agree."""
    one, other = (each.detach().double().nan_to_num() for each in (one, other))
    return bool((one - other).norm() <= 1e-3 * other.norm() + 1e-6)
