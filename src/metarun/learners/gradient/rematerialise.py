"""A long loop whose backward pass computes the steps again instead of having kept their graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, int, bool], Tensors]
"""State before step i, i, and whether the result is to be differentiated, to the state after it."""

# States kept besides the one a span of steps starts from: as many as five steps need, so that fifty take no
# more memory. Each of 15 steps is passed over twice at most, of 35 three times, of 70 four times.
_KEPT = 4


def rematerialised(step: Step, start: Sequence[Tensor], weights: Sequence[Tensor], steps: int) -> Tensors:
    """Return the state after `steps` steps; memory does not grow with their number.

    The backward pass keeps four states at a time and the graph of one step. Which states are kept follows the
    binomial schedule that needs the fewest repeated steps for that (Griewank & Walther 2000, "Revolve",
    doi:10.1145/347837.347846).

    Args:
        step: a pure function of the state and the weights.
        start: the state before the first step.
        weights: tensors besides the state that the step depends on and that want a gradient.
        steps: how many.
    """
    result: Tensors = _Rematerialised.apply(step, steps, len(start), *start, *weights)
    return result


class _Rematerialised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, steps: int, size: int, *tensors: Tensor) -> Tensors:
        ctx.step, ctx.steps, ctx.size = step, steps, size
        ctx.save_for_backward(*tensors)
        return _advance(step, tensors[:size], 0, steps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError("derivatives of a rematerialised loop's derivatives")
        start, weights = ctx.saved_tensors[: ctx.size], ctx.saved_tensors[ctx.size :]
        way_back = _WayBack(ctx.step, weights, cotangents)
        way_back.over(start, 0, ctx.steps, _KEPT)
        return None, None, None, *way_back.cotangents, *way_back.of_weights


def _advance(step: Step, state: Tensors, first: int, count: int) -> Tensors:
    for index in range(first, first + count):
        state = step(tuple(each.detach() for each in state), index, False)
    return tuple(each.detach() for each in state)


class _WayBack:
    """Carries the cotangents of the state from the end to the start, and sums those of the weights."""

    def __init__(self, step: Step, weights: Tensors, cotangents: Tensors) -> None:
        self.step, self.weights, self.cotangents = step, weights, cotangents
        self.of_weights: list[Tensor | None] = [None] * len(weights)

    def over(self, state: Tensors, first: int, count: int, kept: int) -> None:
        """Go back over `count` steps to `state`, which is the one before step `first`."""
        while count > 1:
            ahead = _split(count, kept)
            middle = _advance(self.step, state, first, ahead)
            self.over(middle, first + ahead, count - ahead, max(kept - 1, 1))
            del middle
            count = ahead
        self._once(state, first)

    def _once(self, state: Tensors, index: int) -> None:
        leaves = [each.detach().requires_grad_() for each in state]
        wanted = [each for each in self.weights if each.requires_grad]
        with torch.enable_grad():
            after = self.step(tuple(leaves), index, True)
        used = [(a, c) for a, c in zip(after, self.cotangents, strict=True) if a.requires_grad]
        found = torch.autograd.grad(
            [a for a, _ in used], [*leaves, *wanted], [c for _, c in used], allow_unused=True
        )
        of_weights = iter(found[len(leaves) :])
        for place, weight in enumerate(self.weights):
            gradient = next(of_weights) if weight.requires_grad else None
            before = self.of_weights[place]
            if gradient is not None:
                self.of_weights[place] = gradient if before is None else before + gradient
        self.cotangents = tuple(
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, found[: len(leaves)], strict=True)
        )


def _split(count: int, kept: int) -> int:
    """Return after how many of `count` steps to keep the next state, with `kept` places left for states.

    With s places and every step passed over r times at most, C(s + r, s) steps can be reversed, of which
    C(s + r − 1, s − 1) lie behind the next state kept.
    """
    repeats = next(r for r in range(1, count + 1) if math.comb(kept + r, kept) >= count)
    return max(1, count - math.comb(kept + repeats - 1, kept - 1))
