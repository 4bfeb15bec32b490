"""Checks that a model keeps no state and draws no random numbers, which tasks would share."""

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
from metarun.models.dropblock import DropBlock

Module = TypeVar("Module", bound=nn.Module)


def check_layers(model: nn.Module, *, may_keep_statistics: bool = False) -> None:
    """Raise ConfigError for a lazy layer, and for layers with dropout or running statistics.

    Args:
        model: the network.
        may_keep_statistics: whether batch norms with running statistics and `DropBlock` layers are allowed.
    """
    for name, module in model.named_modules():
        if getattr(module, "track_running_stats", False) and not (
            may_keep_statistics and isinstance(module, nn.modules.batchnorm._BatchNorm)
        ):
            raise ConfigError(
                f"model: {name} keeps running statistics, which tasks would share: "
                f"build it with track_running_stats=False"
            )
        if isinstance(module, DropBlock) and not may_keep_statistics:
            raise ConfigError(
                f"model: {name} drops blocks, which algorithms with inner steps do not do",
                "@model.drop_rate=0",
            )
        if isinstance(module, nn.modules.lazy.LazyModuleMixin):
            raise ConfigError(f"model: {name} is lazy, and has no weights yet: build it with its sizes")
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            raise ConfigError(
                f"model: {name} applies dropout, from a generator that a resumed run would not have: "
                f"build it with p=0"
            )


def has_batch_norms(model: nn.Module) -> bool:
    """Return whether the model has batch norms, so that an output depends on the other examples."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


PADDED_NORMS = "its batch norms would count the padding of smaller tasks"
"""A reason to compute tasks of different sizes one by one."""

PADDED_QUERIES = "it learns from query sets, and would learn from the padding of smaller ones"
"""Another reason to compute tasks of different sizes one by one."""


def check_forward(model: nn.Module, x: Tensor, other: Tensor) -> None:
    """Raise ConfigError if a forward pass on real examples changes the result of the next forward pass.

    A copy of the model is called in both modes, with other examples in between.

    Args:
        model: any module.
        x: examples of one task, [n, …].
        other: examples of the same kind, [m, …].

    Raises:
        ConfigError: a forward pass writes a buffer or a parameter, keeps other state, draws random numbers,
            or fails.
    """
    model = copied(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}

    with torch.no_grad(), _generators_unchanged(type(model).__name__, x.device):
        first = {training: _forward(model, x, training=training) for training in (False, True)}
        _forward(model, other, training=True)
        again = {training: _forward(model, x, training=training) for training in (True, False)}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name not in before or not _equal(tensor, before[name]):
            raise ConfigError(
                f"model: its forward pass writes {name}, which tasks would share: keep no running statistics "
                f"or counters there"
            )
    if not all(_equal(first[training], again[training]) for training in (False, True)):
        raise ConfigError(
            f"model: {type(model).__name__} predicts differently after a forward pass: keep nothing from one "
            f"forward pass to the next, since tasks would share it"
        )


def _forward(model: nn.Module, x: Tensor, *, training: bool) -> Tensor:
    """Return the model's output for examples [n, …]; raise ConfigError if it fails or changes them."""
    model.train(training)
    examples = x.clone()
    try:
        output = model(examples)
    except Exception as error:  # a user's class may raise an error of any type
        raise ConfigError(f"model: {type(model).__name__} fails on the data: {in_one_line(error)}") from error
    if not _equal(examples, x):
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
    gpus = [device] if device.type == "cuda" else []

    def states() -> list[object]:
        cpu, numpy = torch.get_rng_state().tolist(), np.random.get_state()
        cuda = [torch.cuda.get_rng_state(gpu).tolist() for gpu in gpus]
        return [cpu, cuda, random.getstate(), numpy[1].tolist(), numpy[2:]]  # type: ignore[index]

    with torch.random.fork_rng(devices=gpus):
        before = states()
        yield
        if states() != before:
            raise ConfigError(
                f"model: the forward pass of {name} draws random numbers (dropout?), which another execution "
                f"strategy or a resumed run would not draw again: build it with p=0"
            )


def _equal(tensor: Tensor, expected: Tensor) -> bool:
    if tensor.device.type == "cpu":
        return torch.equal(tensor.detach().nan_to_num(), expected.detach().nan_to_num())
    return torch.allclose(tensor, expected, rtol=1e-4, equal_nan=True)  # a GPU adds in varying order


def copied(model: Module) -> Module:
    """Return a deep copy; non-leaf tensors in attributes are copied by value, invalid ones become None.

    Raises:
        ConfigError: the model holds an object that cannot be copied.
    """
    registered = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    copies: dict[int, object] = {}
    for module in model.modules():
        for name, value in vars(module).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                copies |= {id(t): _value(t) for t in _tensors(value) if id(t) not in registered}
    try:
        return copy.deepcopy(model, copies)
    except Exception as error:  # a user's class may hold objects of any type
        raise ConfigError(
            f"model: {type(model).__name__} cannot be copied ({in_one_line(error)}): keep no locks, files or "
            f"the like in it"
        ) from error


def _tensors(value: object) -> Iterator[Tensor]:
    """Yield the tensors in an attribute, also in lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for element in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(element)


def _value(tensor: Tensor) -> Tensor | None:
    try:
        return tensor.detach().clone()
    except RuntimeError:  # a tensor from inside vmap is invalid outside
        return None


def check_replacement(model: nn.Module, x: Tensor) -> None:
    """Raise ConfigError if a model ignores parameters that it is called with.

    Outputs and gradients are compared with those of a copy whose own parameters have these values.

    Args:
        model: any module that passes `check_forward`.
        x: examples of one task, [n, …].
    """
    model, reference = copied(model), copied(model)
    places, generator = Places(model), torch.Generator().manual_seed(0)
    names = [name for name, p in model.named_parameters() if p.is_floating_point()]
    params = {}
    with torch.no_grad():
        model(x.clone())
        for name in names:
            p = reference.get_parameter(name)
            p.add_(0.05 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p))
            params[name] = p.detach().clone().requires_grad_()
            p.requires_grad_()
    try:
        with torch.enable_grad():
            output = places.call(model, params, (x.clone(),))
            gradients = _gradients(output, list(params.values()))
            expected = reference(x.clone())
            expected_gradients = _gradients(expected, [reference.get_parameter(name) for name in names])
            pairs = zip(gradients, expected_gradients, strict=True)
    except Exception as error:  # a user's class may raise an error of any type
        raise ConfigError(
            f"model: {type(model).__name__} fails when called with other parameters: {in_one_line(error)}"
        ) from error
    if not (_close(output, expected) and all(_close(*pair) for pair in pairs)):
        raise ConfigError(
            f"model: {type(model).__name__} does not compute with the parameters that it is called with: it "
            f"recomputes (activation checkpointing), reaches a weight by another name, or keeps a value "
            f"computed from one"
        )


def _gradients(output: Tensor, tensors: list[Tensor] | list[nn.Parameter]) -> tuple[Tensor, ...]:
    if not output.requires_grad:
        return tuple(torch.zeros_like(tensor) for tensor in tensors)
    scalar = output.square().sum() + output.sum()
    gradients: tuple[Tensor, ...] = torch.autograd.grad(scalar, tensors, materialize_grads=True)
    return gradients


def _close(tensor: Tensor, expected: Tensor) -> bool:
    """Return whether two results agree up to rounding."""
    tensor, expected = (t.detach().double().nan_to_num() for t in (tensor, expected))
    return bool((tensor - expected).norm() <= 1e-3 * expected.norm() + 1e-6)
