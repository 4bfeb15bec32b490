"""The part of the graph of adaptation that the outer loop differentiates."""

from __future__ import annotations

from typing import Literal

import torch

Derivatives = Literal["exact", "first_order"]
"""Differentiate the inner gradients (exact), or treat them as constants (first_order)."""

Graph = Literal["exact", "first_order", "none"]
"""The graph that adaptation leaves to the outer loop; none under `torch.no_grad`."""


def graph_for(derivatives: Derivatives) -> Graph:
    """Return the graph to keep: as `derivatives` says, or none if gradients are disabled."""
    return derivatives if torch.is_grad_enabled() else "none"
