"""A long loop whose backward pass recomputes steps instead of keeping their graphs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from metarun.errors import ConfigError

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, int, bool], Tensors]
"""Maps the state before step i, i, and whether the result is differentiated, to the state after step i."""

# States kept besides the first state: five steps keep the same number, so fifty steps take no more memory.
# With 15 steps each step is recomputed twice at most, with 35 three times, and with 70 four times.
_KEPT = 4


def rematerialised(step: Step, start: Sequence[Tensor], weights: Sequence[Tensor], steps: int) -> Tensors:
    """Return the state after `steps` steps; memory does not grow with the number of steps.

    The backward pass keeps four states at a time and the graph of one step. It chooses the states by the
    binomial schedule, which recomputes the fewest steps (Griewank & Walther 2000, "Revolve",
    doi:10.1145/347837.347846).

    Args:
        step: a pure function of the state and the weights.
        start: the state before the first step.
        weights: tensors besides the state that the step depends on and that need a gradient.
        steps: number of steps.
    """
    result: Tensors = _Rematerialised.apply(step, steps, len(start), *start, *weights)
    return result


def rematerialised_tree(
    step: Callable[[Any, int, bool], Any], start: Any, weights: Sequence[Tensor], steps: int, *, of: str
) -> Any:
    """Return the result of `rematerialised` for a state that is a tree of tensors.

    Args:
        step: as in `rematerialised`, on trees.
        start: the state before the first step.
        weights: as in `rematerialised`.
        steps: number of steps.
        of: name of the update rule, for the message.

    Raises:
        ConfigError: a leaf of the state is not a floating-point tensor.
    """
    values, structure = tree_flatten(start)
    if not all(isinstance(value, Tensor) and value.is_floating_point() for value in values):
        raise ConfigError(
            f"@engine.rematerialise needs a rule whose state consists of floating-point tensors, {of}'s does "
            f"not",
            "@engine.rematerialise=false",
        )

    def flat_step(values: Tensors, index: int, differentiable: bool) -> Tensors:
        return tuple(tree_flatten(step(tree_unflatten(values, structure), index, differentiable))[0])

    return tree_unflatten(rematerialised(flat_step, values, weights, steps), structure)


class _Rematerialised(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, steps: int, size: int, *tensors: Tensor) -> Tensors:
        ctx.step, ctx.steps, ctx.size = step, steps, size
        ctx.save_for_backward(*tensors)
        return _advance(step, tensors[:size], 0, steps)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise NotImplementedError("second derivatives of a rematerialised loop")
        start, weights = ctx.saved_tensors[: ctx.size], ctx.saved_tensors[ctx.size :]
        backward_pass = _BackwardPass(ctx.step, weights, cotangents)
        backward_pass.run(start, 0, ctx.steps, _KEPT)
        return None, None, None, *backward_pass.cotangents, *backward_pass.weight_gradients


def _advance(step: Step, state: Tensors, first: int, count: int) -> Tensors:
    for index in range(first, first + count):
        state = step(tuple(tensor.detach() for tensor in state), index, False)
    return tuple(tensor.detach() for tensor in state)


class _BackwardPass:
    """Propagates the state's cotangents from the end to the start, and sums the weights' gradients."""

    def __init__(self, step: Step, weights: Tensors, cotangents: Tensors) -> None:
        self.step, self.weights, self.cotangents = step, weights, cotangents
        self.weight_gradients: list[Tensor | None] = [None] * len(weights)

    def run(self, state: Tensors, first: int, count: int, slots: int) -> None:
        """Propagate cotangents back over `count` steps to `state`, the state before step `first`."""
        while count > 1:
            length = _split(count, slots)
            middle = _advance(self.step, state, first, length)
            self.run(middle, first + length, count - length, max(slots - 1, 1))
            del middle
            count = length
        self._one_step(state, first)

    def _one_step(self, state: Tensors, index: int) -> None:
        leaves = [tensor.detach().requires_grad_() for tensor in state]
        weights = [weight for weight in self.weights if weight.requires_grad]
        with torch.enable_grad():
            after = self.step(tuple(leaves), index, True)
        pairs = [(a, c) for a, c in zip(after, self.cotangents, strict=True) if a.requires_grad]
        gradients = torch.autograd.grad(
            [a for a, _ in pairs], [*leaves, *weights], [c for _, c in pairs], allow_unused=True
        )
        weight_gradients = iter(gradients[len(leaves) :])
        for position, weight in enumerate(self.weights):
            gradient = next(weight_gradients) if weight.requires_grad else None
            total = self.weight_gradients[position]
            if gradient is not None:
                self.weight_gradients[position] = gradient if total is None else total + gradient
        self.cotangents = tuple(
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients[: len(leaves)], strict=True)
        )


def _split(count: int, slots: int) -> int:
    """Return the number of steps, of `count`, before the next kept state, with room for `slots` states.

    If no step is recomputed more than r times, s slots suffice to reverse C(s + r, s) steps; of these,
    C(s + r − 1, s − 1) come after the next kept state.
    """
    repeats = next(r for r in range(1, count + 1) if math.comb(slots + r, slots) >= count)
    return max(1, count - math.comb(slots + repeats - 1, slots - 1))
