"""A batched interior-point method for the dual of a multi-class support vector machine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# A step goes this far towards the nearest constraint.
_TO_THE_BOUNDARY = 0.99
# Below this mean complementarity a task is solved: further steps would divide rounding errors.
_SOLVED = 1e-13


class Dual(NamedTuple):
    """min ½ Σ_c x_cᵀ Q x_c + Σ e x, with x ≤ h, and Σ_c x_ic = 0 for every example i.

    Attributes:
        quadratic: Q, [T, n, n], positive definite, the same for every class.
        linear: e, [T, n, classes].
        upper: h, [T, n, classes].
    """

    quadratic: Tensor
    linear: Tensor
    upper: Tensor


class Point(NamedTuple):
    """x, slack s = h − x, multipliers λ of bounds, [T, n, classes] each; multipliers ν of sums, [T, n]."""

    x: Tensor
    slack: Tensor
    bounds: Tensor
    sums: Tensor


class KKT:
    """The linear system of a Newton step: (Q + Λ/S) dx_c + dν = r_c for each class c, Σ_c dx_c = q.

    Q is the same for all classes, so each class has a system of n × n, and only dν couples the classes: with
    H_c = Q + Λ_c/S_c, (Σ_c H_c⁻¹) dν = Σ_c H_c⁻¹ r_c − q.

    Args:
        quadratic: Q, [T, n, n].
        barrier: Λ/S, [T, n, classes].
    """

    def __init__(self, quadratic: Tensor, barrier: Tensor) -> None:
        blocks = quadratic[:, None] + torch.diag_embed(barrier.mT)  # [T, classes, n, n]
        self._inverses = torch.cholesky_inverse(torch.linalg.cholesky(blocks))
        self._coupling = torch.linalg.cholesky(self._inverses.sum(1))

    def solve(self, r: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return dx [T, n, classes] and dν [T, n] for r [T, n, classes] and q [T, n]."""
        own = self._times_inverses(r)
        sums = torch.cholesky_solve((own.sum(2) - q)[..., None], self._coupling)
        return own - self._times_inverses(sums.expand_as(r)), sums.squeeze(2)

    def _times_inverses(self, r: Tensor) -> Tensor:
        return (self._inverses @ r.mT[..., None]).squeeze(3).mT


def solve(problem: Dual, iterations: int) -> Tensor:
    """Return the solution x [T, n, classes], differentiable in Q.

    Mehrotra's predictor-corrector method (1992, "On the implementation of a primal-dual interior point
    method"), from an infeasible start; each task has its own step lengths. The derivative is that of the
    implicit function theorem for the optimality conditions: one more Newton step is added to the detached
    solution; its value is zero and its derivative is −KKT⁻¹ dQ x. The derivative is exact if every active
    constraint has a nonzero multiplier.
    """
    with torch.no_grad():
        point = _start(problem)
        for _ in range(iterations):
            point = _step(problem, point)
            if (_gap(point) < _SOLVED).all():  # further steps would change nothing
                break
        system = KKT(problem.quadratic, point.bounds / point.slack)
    residual = problem.quadratic @ point.x + problem.linear + point.bounds + point.sums[..., None]
    correction, _ = system.solve(-residual, torch.zeros_like(point.sums))
    return point.x + correction


def _start(problem: Dual) -> Point:
    x = torch.zeros_like(problem.linear)
    ones = torch.ones_like(x)
    return Point(x, ones, ones, torch.zeros_like(x[..., 0]))


def _step(problem: Dual, at: Point) -> Point:
    stationarity = problem.quadratic @ at.x + problem.linear + at.bounds + at.sums[..., None]
    primal = at.x + at.slack - problem.upper
    total = at.x.sum(2)
    system = KKT(problem.quadratic, at.bounds / at.slack)

    def newton(target: Tensor) -> Point:
        """Return the step that takes the products λ s towards the target, [T, n, classes]."""
        products = at.bounds * at.slack - target
        r = -stationarity + (products - at.bounds * primal) / at.slack
        dx, sums = system.solve(r, -total)
        slack = -primal - dx
        return Point(dx, slack, -(products + at.bounds * slack) / at.slack, sums)

    gap = _gap(at)
    towards = newton(torch.zeros_like(at.x))
    length = _longest(at, towards)
    affine = (at.bounds + length * towards.bounds) * (at.slack + length * towards.slack)
    centring = (affine.mean((1, 2), keepdim=True) / gap) ** 3
    step = newton(centring * gap - towards.bounds * towards.slack)
    length = torch.where(gap < _SOLVED, 0.0, _TO_THE_BOUNDARY * _longest(at, step)).clamp_max(1.0)
    moved = [
        old + length.view(-1, *[1] * (old.dim() - 1)) * change for old, change in zip(at, step, strict=True)
    ]
    return Point(*moved)


def _gap(at: Point) -> Tensor:
    """Return the mean complementarity of each task, [T, 1, 1]."""
    return (at.bounds * at.slack).mean((1, 2), keepdim=True)


def _longest(at: Point, step: Point) -> Tensor:
    """Return the longest step, at most 1 / 0.99, that keeps slacks and multipliers positive, [T, 1, 1]."""
    most = torch.full_like(at.x[:, :1, :1], 1 / _TO_THE_BOUNDARY)
    for old, change in ((at.slack, step.slack), (at.bounds, step.bounds)):
        ratios = torch.where(change < 0, -old / change, torch.inf)
        most = torch.minimum(most, ratios.amin((1, 2), keepdim=True))
    return most
