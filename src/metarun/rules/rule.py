"""The contract of an update rule: what one step of the inner loop does to the adapted parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.tasks import Examples

Parameters = dict[str, Tensor]
"""Adapted parameters (or their gradients) by name, each with a leading task dimension: [T, …]."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""How much of a running mean is left after a step."""


class UpdateRule(nn.Module, ABC):
    """A pure, differentiable update of all tasks at once; its own weights are meta-parameters.

    A constructor that has the arguments `input_shape` and `output_size` is given the data's.

    Attributes:
        keeps_state: whether it has parameters without a gradient that it keeps from task to task.
        coordinatewise: whether every entry of every parameter is moved alike.
    """

    keeps_state = False
    coordinatewise = False

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Make the rule's own weights, if it has any, for parameters of these names and shapes (no T)."""

    def init(self, params: Parameters) -> Any:  # noqa: ARG002  (rules with a state read it)
        """Return the state before the first step: tuples and dicts of momenta and the like, each [T, …]."""
        return ()

    def observe(self, state: Any, examples: Examples, losses: Tensor) -> Any:  # noqa: ARG002  (the same)
        """Return the state, given the support examples of the next step and each task's loss on them, [T].

        For a rule that makes its settings from the task; `update` follows.
        """
        return state

    @abstractmethod
    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:
        """Return parameters and state after inner step `step` (0, 1, …), leaving the arguments alone."""

    def persistent_state(self, state: Any, steps: int) -> Parameters:  # noqa: ARG002  (for those that have any)
        """Return what each task leaves in the parameters that are kept from task to task, [T, …] by name.

        Args:
            state: after the last step.
            steps: how many there were.
        """
        return {}


def key(name: str) -> str:
    """Return a parameter's name as a ParameterDict can have it, without dots."""
    return name.replace(".", "/")


def at_step(values: Tensor, step: int) -> Tensor:
    """Return the value that a step has of its own, values[step], or the last where there are fewer."""
    return values[min(step, len(values) - 1)]


def zeros(params: Parameters) -> Parameters:
    """Return a state of zeros for every parameter."""
    return {name: torch.zeros_like(p) for name, p in params.items()}
