"""The contract of an update rule, which changes the adapted parameters in one step of the inner loop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.figures import Figure
from metarun.tasks import Examples

Parameters = dict[str, Tensor]
"""Adapted parameters (or their gradients) by name, each with a leading task dimension: [T, …]."""

Decay = Annotated[float, Field(ge=0, lt=1)]
"""The factor of a running mean's old value in a step."""


class UpdateRule(nn.Module, ABC):
    """A pure, differentiable update of all tasks at once; its own weights are meta-parameters.

    Constructor arguments named `input_shape` and `output_size` are set to those of the data.

    Attributes:
        keeps_state: whether the rule has parameters without a gradient that are kept from task to task.
        coordinatewise: whether one function updates every entry of every parameter.
    """

    keeps_state = False
    coordinatewise = False

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Create the rule's own weights, if any, for parameters of these names and shapes (without T)."""

    def init(self, params: Parameters) -> Any:  # noqa: ARG002  (rules with a state read it)
        """Return the state before the first step: tuples and dicts of tensors such as momenta, [T, …]."""
        return ()

    def observe(self, state: Any, examples: Examples, losses: Tensor) -> Any:  # noqa: ARG002  (the same)
        """Return the state, given the support examples of the next step and each task's loss on them, [T].

        Called before `update`, for rules whose settings depend on the task.
        """
        return state

    @abstractmethod
    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:
        """Return parameters and state after inner step `step` (0, 1, …), without changing the arguments."""

    def learned(self, adapt: Callable[[], None]) -> list[Figure]:  # noqa: ARG002  (for those that depend on tasks)
        """Return figures of what the rule has learned.

        Args:
            adapt: adapts the rule's learner to some test tasks.
        """
        return []

    def persistent_state(self, state: Any, steps: int) -> Parameters:  # noqa: ARG002  (for those that have any)
        """Return each task's values of the parameters that are kept from task to task, [T, …] by name.

        Args:
            state: the state after the last step.
            steps: the number of steps.
        """
        return {}


def key(name: str) -> str:
    """Return a parameter's name without dots, as a ParameterDict requires."""
    return name.replace(".", "/")


def at_step(values: Tensor, step: int) -> Tensor:
    """Return values[step], or the last value if there are fewer."""
    return values[min(step, len(values) - 1)]


def zeros(params: Parameters) -> Parameters:
    """Return a state of zeros for every parameter."""
    return {name: torch.zeros_like(p) for name, p in params.items()}
