"""Checks of a model's second derivatives: some of torch's are wrong, and some silently missing."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from metarun.errors import ConfigError
from metarun.learners.soundness import copied

# Private or deprecated names: in a torch without them nothing needs to be mended.
_BY_HOOKS = getattr(importlib.import_module("torch.nn.utils.weight_norm"), "WeightNorm", ())
_PARAMETRIZATION = getattr(parametrizations, "_WeightNorm", ())

log = logging.getLogger("metarun")

# Step sizes of the differences: the larger ones are for models that round to float32 somewhere.
_STEPS = (1e-6, 1e-4, 1e-3)
_TOLERANCE = 1e-2


def mend_weight_norm(model: nn.Module) -> None:
    """Make the model's weight norms compute w = g v / ‖v‖ by plain operations.

    The second derivatives of torch's fused kernel treat ‖v‖ as a constant (torch 2.13; gradgradcheck fails).
    """
    for module in model.modules():
        if isinstance(module, _PARAMETRIZATION):
            module.forward = _Composite(module.dim)
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, _BY_HOOKS):
                hook.compute_weight = _ByHooks(hook.name, hook.dim)


class _Composite:
    def __init__(self, dim: int) -> None:
        self.dim = dim

    def __call__(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / torch.norm_except_dim(v, 2, self.dim))


class _ByHooks(_Composite):
    def __init__(self, name: str, dim: int) -> None:
        super().__init__(dim)
        self.name = name

    def __call__(self, module: nn.Module) -> Tensor:  # type: ignore[override]
        return super().__call__(getattr(module, f"{self.name}_g"), getattr(module, f"{self.name}_v"))


def check_second_derivatives(model: nn.Module, x: Tensor) -> None:
    """Compare autograd's second derivatives of a model with central differences of its gradient.

    The comparison is in float64, at a point near the model's parameters (away from the kinks of ReLU), along
    one direction. A difference only gives a warning, because an intended stop-gradient has the same effect.

    Args:
        model: any module that passes `check_forward`.
        x: examples of one task, [n, …].

    Raises:
        ConfigError: a function of the model is marked `once_differentiable`: its second derivatives are
            missing, and autograd silently takes them as zero.
    """
    model, generator = copied(model), torch.Generator().manual_seed(0)
    try:
        model.double()
        x = x.double() if x.is_floating_point() else x
        parameters = [p for p in model.parameters() if p.requires_grad]
        with torch.enable_grad():
            _move(parameters, [_normal(p, generator) for p in parameters], 0.05)
            direction = [_normal(p, generator) for p in parameters]
            gradient = _gradient(model, x, parameters, graph=True)
            once_differentiable = any(_leads_to_once_differentiable(g) for g in gradient)
            product = _product(gradient, parameters, direction)
            errors = [_distance(product, _differences(model, x, parameters, direction, h)) for h in _STEPS]
    except (RuntimeError, TypeError, ValueError):  # the model may not support float64, which is not an error
        return
    if once_differentiable:
        raise ConfigError(
            f"model: a function in {type(model).__name__} is once_differentiable, so its second derivatives "
            f"would count as zero: write its backward pass in plain operations",
            "or @metagradient=first_order",
        )
    if min(errors) > _TOLERANCE:
        log.warning(
            "model: the second derivatives of %s differ by %.1f %% from differences of its gradient: fine if "
            "a detach() is intended, else a kernel is wrong; metagradient=first_order needs none",
            type(model).__name__,
            100 * min(errors),
        )


def _leads_to_once_differentiable(tensor: Tensor) -> bool:
    """Return whether a tensor's graph has an error node of `once_differentiable`, which autograd skips."""
    stack, visited = [tensor.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        if type(node).__name__ == "Error":
            return True
        visited.add(node)
        stack += [function for function, _ in node.next_functions]
    return False


def _move(parameters: list[nn.Parameter], direction: list[Tensor], distance: float) -> None:
    with torch.no_grad():
        for p, d in zip(parameters, direction, strict=True):
            p.add_(d, alpha=distance)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _gradient(
    model: nn.Module, x: Tensor, parameters: list[nn.Parameter], *, graph: bool
) -> tuple[Tensor, ...]:
    """Return the gradient of a function of the output whose second derivatives are not zero."""
    output = model(x)
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=torch.float64, device=output.device)
    scalar = (weight * output.flatten().square()).sum()
    gradient: tuple[Tensor, ...] = torch.autograd.grad(
        scalar, parameters, create_graph=graph, materialize_grads=True
    )
    return gradient


def _product(gradient: tuple[Tensor, ...], parameters: list[nn.Parameter], direction: list[Tensor]) -> Tensor:
    """Return the Hessian times the direction by a second backward pass, as one vector."""
    slope = torch.stack([(g * d).sum() for g, d in zip(gradient, direction, strict=True)]).sum()
    if not slope.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    return _flat(torch.autograd.grad(slope, parameters, materialize_grads=True))


def _differences(
    model: nn.Module, x: Tensor, parameters: list[nn.Parameter], direction: list[Tensor], h: float
) -> Tensor:
    """Return the Hessian times the direction by central differences of the gradient."""

    def gradient_after(distance: float) -> Tensor:
        _move(parameters, direction, distance)
        return _flat(_gradient(model, x, parameters, graph=False))

    plus = gradient_after(h)
    minus = gradient_after(-2 * h)
    gradient_after(h)
    return (plus - minus) / (2 * h)


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def _distance(vector: Tensor, reference: Tensor) -> float:
    scale: Any = reference.norm().clamp_min(1e-12)
    return float(((vector - reference).norm() / scale).item())
