"""Second derivatives of a model: torch's own are not all right, and some are silently missing."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from metarun.errors import ConfigError
from metarun.learners.soundness import copied

# Private names, or deprecated ones: a torch without them has nothing of theirs to mend.
_BY_HOOKS = getattr(importlib.import_module("torch.nn.utils.weight_norm"), "WeightNorm", ())
_PARAMETRIZATION = getattr(parametrizations, "_WeightNorm", ())

log = logging.getLogger("metarun")

# The larger ones for models that round to float32 somewhere.
_STEPS = (1e-6, 1e-4, 1e-3)
_TOLERANCE = 1e-2


def mend_weight_norm(model: nn.Module) -> None:
    """Let weight norms of this model compute w = g v / ‖v‖ by plain operations.

    The second derivatives of torch's fused one take ‖v‖ as a constant (torch 2.13; gradgradcheck fails).
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
    """Look whether autograd's second derivatives of a model are those of its gradient.

    In float64, at a point beside its parameters (where no ReLU has its corner) and along one direction,
    against central differences of the gradient. Where they differ a warning says so: a stop-gradient in the
    model makes that so too, and is meant.

    Args:
        model: any module that `check_forward` has nothing against.
        x: examples of one task, [n, …].

    Raises:
        ConfigError: a function of the model is marked `once_differentiable`: its derivatives have none, and
            autograd takes them for zero without a word.
    """
    model, generator = copied(model), torch.Generator().manual_seed(0)
    try:
        model.double()
        x = x.double() if x.is_floating_point() else x
        parameters = [p for p in model.parameters() if p.requires_grad]
        with torch.enable_grad():
            _move(parameters, [_normal(p, generator) for p in parameters], 0.05)
            along = [_normal(p, generator) for p in parameters]
            gradient = _gradient(model, x, parameters, graph=True)
            once = any(_leads_to_once_differentiable(each) for each in gradient)
            by_autograd = _product(gradient, parameters, along)
            errors = [_distance(by_autograd, _differences(model, x, parameters, along, h)) for h in _STEPS]
    except (RuntimeError, TypeError, ValueError):  # it does not work in float64, and that is no fault
        return
    if once:
        raise ConfigError(
            f"model: a function in {type(model).__name__} is once_differentiable, so its second derivatives "
            f"would count as zero: write its backward pass in plain operations",
            "or @metagradient=first_order",
        )
    if min(errors) > _TOLERANCE:
        log.warning(
            "model: the second derivatives of %s differ by %.1f %% from differences of its gradient: right "
            "where a detach() is meant, wrong where a kernel is; metagradient=first_order needs none",
            type(model).__name__,
            100 * min(errors),
        )


def _leads_to_once_differentiable(tensor: Tensor) -> bool:
    """Say whether the graph of a tensor has a node that only raises: autograd itself goes round it."""
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if type(node).__name__ == "Error":
            return True
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
    return False


def _move(parameters: list[nn.Parameter], along: list[Tensor], distance: float) -> None:
    with torch.no_grad():
        for p, a in zip(parameters, along, strict=True):
            p.add_(a, alpha=distance)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def _gradient(
    model: nn.Module, x: Tensor, parameters: list[nn.Parameter], *, graph: bool
) -> tuple[Tensor, ...]:
    """Return the gradient of a scalar of the output whose own second derivatives are not zero."""
    output = model(x)
    weight = torch.linspace(0.5, 1.5, output.numel(), dtype=torch.float64, device=output.device)
    scalar = (weight * output.flatten().square()).sum()
    found: tuple[Tensor, ...] = torch.autograd.grad(
        scalar, parameters, create_graph=graph, materialize_grads=True
    )
    return found


def _product(gradient: tuple[Tensor, ...], parameters: list[nn.Parameter], along: list[Tensor]) -> Tensor:
    """Return the Hessian times the direction by a second backward pass, as one vector."""
    slope = torch.stack([(g * a).sum() for g, a in zip(gradient, along, strict=True)]).sum()
    if not slope.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    return _flat(torch.autograd.grad(slope, parameters, materialize_grads=True))


def _differences(
    model: nn.Module, x: Tensor, parameters: list[nn.Parameter], along: list[Tensor], h: float
) -> Tensor:
    """Return the same by central differences of the gradient."""

    def moved(distance: float) -> Tensor:
        _move(parameters, along, distance)
        return _flat(_gradient(model, x, parameters, graph=False))

    ahead = moved(h)
    behind = moved(-2 * h)
    moved(h)
    return (ahead - behind) / (2 * h)


def _flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors])


def _distance(one: Tensor, other: Tensor) -> float:
    scale: Any = other.norm().clamp_min(1e-12)
    return float(((one - other).norm() / scale).item())
