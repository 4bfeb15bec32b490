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
        carries: whether it has parameters without a gradient that go from task to task, as `carried` says.
    """

    carries = False

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

    def carried(self, state: Any, steps: int) -> Parameters:  # noqa: ARG002  (for those that carry)
        """Return what a task leaves in each parameter that goes from task to task, after so many steps."""
        return {}


def key(name: str) -> str:
    """Return a parameter's name as a ParameterDict can have it, without dots."""
    return name.replace(".", "/")


def zeros(params: Parameters) -> Parameters:
    """Return a state of zeros for every parameter."""
    return {name: torch.zeros_like(p) for name, p in params.items()}
