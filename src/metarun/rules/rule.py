"""The contract of an update rule: what one step of the inner loop does to the adapted parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

Parameters = dict[str, Tensor]
"""Adapted parameters (or their gradients) by name, each with a leading task dimension: [T, …]."""


class UpdateRule(nn.Module, ABC):
    """A pure, differentiable update of all tasks at once; its own weights are meta-parameters."""

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:
        """Make the rule's own weights, if it has any, for parameters of these names and shapes (no T)."""

    def init(self, params: Parameters) -> Any:  # noqa: ARG002  (rules with a state read it)
        """Return the state before the first step: tuples and dicts of momenta and the like, each [T, …]."""
        return ()

    @abstractmethod
    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:
        """Return parameters and state after inner step `step` (0, 1, …), leaving the arguments alone."""
