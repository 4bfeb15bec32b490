"""The implicit meta-gradient at a regularised inner optimum: no backpropagation through inner steps."""

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

    Exact if the inner loop has found the optimum of L_support(φ) + λ/2 ‖φ − θ‖² (iMAML, Rajeswaran et al.
    2019, arXiv:1909.04630, equation 6 and algorithm 2). λ is algo.proximal. Memory does not grow with the
    number of inner steps.

    Args:
        cg_steps: steps of the conjugate gradients (paper: 5).
        damping: added to λ only in this linear system, against large negative curvature of H. The authors'
            code solves with 2 I + H/(2 + 10), which gives the direction of λ + damping = 24.
    """

    learner = GradientAdaptation

    def __init__(self, *, cg_steps: Size = 5, damping: NonNegativeFloat = 0.0) -> None:
        self.cg_steps, self.damping = cg_steps, damping

    def check(self, learner: GradientAdaptation) -> None:
        """Raise ConfigError for a learner without this inner optimum, or with meta-parameters besides θ."""
        check_trains_the_start("implicit", learner)
        if learner.proximal == 0:
            raise ConfigError(
                "@metagradient=implicit needs a proximal term in the inner loop",
                "@learner=imaml, or @learner.proximal=2",
            )
        if getattr(learner.rule, "weight_decay", 0):
            raise ConfigError(
                "@metagradient=implicit assumes an inner loop without weight decay", "@rule.weight_decay=0"
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
        used = [gradient for gradient in first if gradient.requires_grad]

        def product(v: Parameters) -> Parameters:
            """Return (I + H/(λ + damping)) v."""
            cotangents = [v[name] for name, g in zip(phi, first, strict=True) if g.requires_grad]
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
        steps: number of steps; a task that is solved earlier keeps its solution.
    """
    x = {name: torch.zeros_like(b) for name, b in right.items()}
    residual, direction = right, right
    size = _dot(residual, residual)
    for _ in range(steps):
        image = product(direction)
        rate = _ratio(size, _dot(direction, image))
        x = {name: v + _expand(rate, v) * direction[name] for name, v in x.items()}
        residual = {name: r - _expand(rate, r) * image[name] for name, r in residual.items()}
        previous_size, size = size, _dot(residual, residual)
        ratio = _ratio(size, previous_size)
        direction = {name: r + _expand(ratio, r) * direction[name] for name, r in residual.items()}
    return x


def _dot(a: Parameters, b: Parameters) -> Tensor:
    """Return each task's inner product, [T]."""
    return torch.stack([(a[name] * b[name]).flatten(1).sum(1) for name in a]).sum(0)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 for a task that is already solved."""
    return torch.where(b == 0, 0.0, a / torch.where(b == 0, 1.0, b))


def _expand(v: Tensor, like: Tensor) -> Tensor:
    return v.view(-1, *[1] * (like.dim() - 1))
