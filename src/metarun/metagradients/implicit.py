"""The implicit meta-gradient: of a regularised inner optimum, no backpropagation through inner steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.learners import GradientAdaptation
from metarun.metagradients.metagradient import MetaGradient, MetaStep, Progress, check_trains_the_start
from metarun.rules import Parameters
from metarun.tasks import Tasks


class Implicit(MetaGradient[GradientAdaptation]):
    """(I + H/λ)⁻¹ ∇L_query(φ), H the Hessian of the support loss at φ, by conjugate gradients.

    Exact where the inner loop has found the optimum of L_support(φ) + λ/2 ‖φ − θ‖² (iMAML, Rajeswaran et al.
    2019, arXiv:1909.04630, equation 6 and algorithm 2). λ is algo.proximal. Memory does not grow with inner
    steps.

    Args:
        cg_steps: steps of the conjugate gradients (paper: 5).
        damping: added to λ here alone, where H has large negative curvature. The authors' code solves
            2 I + H/(2 + 10), which has the direction of λ + damping = 24.
    """

    learner = GradientAdaptation

    def __init__(self, *, cg_steps: Size = 5, damping: NonNegativeFloat = 0.0) -> None:
        self.cg_steps, self.damping = cg_steps, damping

    def check(self, learner: GradientAdaptation) -> None:
        """Raise ConfigError for a learner whose adaptation has no such optimum, or learns more than θ."""
        check_trains_the_start("implicit", learner)
        if learner.proximal == 0:
            raise ConfigError(
                "@metagradient=implicit needs a proximal term in the inner loop",
                "@learner=imaml, or @learner.proximal=2",
            )
        if getattr(learner.rule, "weight_decay", 0):
            raise ConfigError(
                "@metagradient=implicit is of the optimum without weight decay", "@rule.weight_decay=0"
            )
        if learner.loop.batch is not None:
            raise ConfigError("@metagradient=implicit needs the whole support set", "@loop.batch=null")

    def gradients(
        self,
        learner: GradientAdaptation,
        tasks: Tasks,
        progress: Progress,  # noqa: ARG002
        weight: float,
    ) -> MetaStep:
        """Solve for each task's meta-gradient at its adapted parameters."""
        with torch.no_grad():
            optimum = learner.adapt(tasks.without_answers())
        phi = {name: p.detach().requires_grad_() for name, p in optimum.params.items()}
        adapted = replace(optimum, params=phi)
        values = list(phi.values())
        scores = learner.scores(adapted, tasks)
        right = torch.autograd.grad(scores["loss"].sum(), values, materialize_grads=True)
        support = learner.support_losses(adapted, tasks).sum()
        first = torch.autograd.grad(support, values, create_graph=True, materialize_grads=True)
        used = [each for each in first if each.requires_grad]

        def product(v: Parameters) -> Parameters:
            """Return (I + H/(λ + damping)) v."""
            cotangents = [v[name] for name, each in zip(phi, first, strict=True) if each.requires_grad]
            curved = torch.autograd.grad(used, values, cotangents, retain_graph=True, materialize_grads=True)
            share = 1 / (learner.proximal + self.damping)
            return {name: v[name] + share * h for name, h in zip(phi, curved, strict=True)}

        solved = conjugate_gradients(product, dict(zip(phi, right, strict=True)), self.cg_steps)
        return MetaStep({f"model.{name}": weight * x.sum(0) for name, x in solved.items()}, scores)


def conjugate_gradients(
    product: Callable[[Parameters], Parameters], right: Parameters, steps: int
) -> Parameters:
    """Solve A x = b for T tasks at once, from x = 0 (Hestenes & Stiefel 1952).

    Args:
        product: maps v to A v, task by task; A is symmetric.
        right: b, by name, [T, …].
        steps: how many; a task that is solved before stays as it is.
    """
    x = {name: torch.zeros_like(b) for name, b in right.items()}
    residual, way = right, right
    size = _dot(residual, residual)
    for _ in range(steps):
        image = product(way)
        rate = _ratio(size, _dot(way, image))
        x = {name: each + _wide(rate, each) * way[name] for name, each in x.items()}
        residual = {name: each - _wide(rate, each) * image[name] for name, each in residual.items()}
        before, size = size, _dot(residual, residual)
        ratio = _ratio(size, before)
        way = {name: each + _wide(ratio, each) * way[name] for name, each in residual.items()}
    return x


def _dot(a: Parameters, b: Parameters) -> Tensor:
    """Return each task's inner product, [T]."""
    return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 for a task that has nothing left to solve."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def _wide(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.dim() - 1))
