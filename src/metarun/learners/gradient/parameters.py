"""The parameters of T tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from metarun.rules import Parameters


@dataclass(frozen=True)
class AdaptedParameters:
    """The result of adapting to T tasks: parameters [T, …] by name, and the inputs of the support sets.

    Attributes:
        params: the parameters that adapt.
        shared: the parameters that do not adapt, which all tasks share.
        support_x: the inputs of the support sets.
        start: the values of `params` before the first step.
        state: the rule's state after the last step.
    """

    params: Parameters
    shared: Mapping[str, Tensor]
    support_x: Tensor
    start: Parameters
    state: Any = None


def squared_distance(params: Parameters, others: Parameters) -> Tensor:
    """Return ‖φ − θ‖², summed over tasks."""
    return torch.stack([(p - others[name]).square().sum() for name, p in params.items()]).sum()


def leaves(params: Parameters) -> Parameters:
    """Detach the parameters from their graph, ready for the next step's gradient."""
    return {name: p.detach().requires_grad_() for name, p in params.items()}
