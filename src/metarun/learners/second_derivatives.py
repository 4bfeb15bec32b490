"""Second derivatives of a model: torch's own are not all right, and some are silently missing."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from metarun.errors import ConfigError
from metarun.learners.soundness import copied

_BY_HOOKS = importlib.import_module("torch.nn.utils.weight_norm").WeightNorm

_STEPS = (1e-6, 1e-7)
_TOLERANCE = 1e-3


def mend_weight_norm(model: nn.Module) -> None:
    """Let weight norms of this model compute w = g v / ‖v‖ by plain operations.

    The second derivatives of torch's fused one take ‖v‖ as a constant (torch 2.13; gradgradcheck fails).
    """
    for module in model.modules():
        if isinstance(module, parametrizations._WeightNorm):
            module.forward = _Composite(module.dim)  # type: ignore[method-assign]
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
    """Raise ConfigError where autograd's second derivatives of a model are not those of its gradient.

    In float64, along one direction of its parameters, against central differences of the gradient. A function
    marked `once_differentiable` is found so too: its derivatives count as zero, without a word of torch's.

    Args:
        model: any module that `check_forward` has nothing against.
        x: examples of one task, [n, …].
    """
    model = copied(model).double()
    x = x.double() if x.is_floating_point() else x
    parameters = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    generator = torch.Generator().manual_seed(0)
    along = [_normal(p, generator) for p in parameters]
    with torch.enable_grad():
        by_autograd = _product(model, x, parameters, along)
        errors = [_distance(by_autograd, _differences(model, x, parameters, along, h)) for h in _STEPS]
    if min(errors) > _TOLERANCE:  # one step may have crossed a corner of a ReLU
        raise ConfigError(
            f"model: the second derivatives of {type(model).__name__} by autograd are wrong by "
            f"{100 * min(errors):.1f} % (a fused kernel, or once_differentiable?): write "
            f"that layer in plain operations, or type metagradient=first_order"
        )


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


def _product(model: nn.Module, x: Tensor, parameters: list[nn.Parameter], along: list[Tensor]) -> Tensor:
    """Return the Hessian times the direction by two backward passes, as one vector."""
    gradient = _gradient(model, x, parameters, graph=True)
    slope = torch.stack([(g * a).sum() for g, a in zip(gradient, along, strict=True)]).sum()
    if not slope.requires_grad:
        return torch.cat([torch.zeros_like(p).flatten() for p in parameters])
    return _flat(torch.autograd.grad(slope, parameters, materialize_grads=True))


def _differences(
    model: nn.Module, x: Tensor, parameters: list[nn.Parameter], along: list[Tensor], h: float
) -> Tensor:
    """Return the same by central differences of the gradient."""

    def moved(distance: float) -> Tensor:
        with torch.no_grad():
            for p, a in zip(parameters, along, strict=True):
                p.add_(a, alpha=distance)
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
