"""Gradients transformed by learned matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from metarun.figures import Figure
from metarun.rules.rule import Parameters, UpdateRule, key
from metarun.rules.seen import spectra_figure


class MetaCurvature(UpdateRule):
    """φ ← φ − α · G ×₃ M_f ×₂ M_i ×₁ M_o (Park & Oliva 2019, arXiv:1902.03356, equations 8 to 10).

    G is a weight's gradient with outputs, inputs and filter entries as its three dimensions. Each dimension
    is multiplied by a learned matrix that starts as the identity. Linear weights have no third dimension,
    and biases only the first. A dimension with one entry has no matrix, which would only be a rate.

    Args:
        lr: the rate α, fixed.
    """

    def __init__(self, *, lr: NonNegativeFloat) -> None:
        super().__init__()
        self.lr = lr
        self.matrices = nn.ModuleDict()

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:  # noqa: ARG002
        """Create a matrix for each dimension of the initial parameters."""
        for name, p in initial.items():
            sizes = _three(p, 0).shape if p.dim() else ()
            eyes = [torch.eye(size, dtype=p.dtype, device=p.device) for size in sizes if size > 1]
            self.matrices[key(name)] = nn.ParameterList(eyes)

    def update(self, params: Parameters, grads: Parameters, state: Any, step: int) -> tuple[Parameters, Any]:  # noqa: ARG002
        """Return the parameters moved against the transformed gradient."""
        return {
            name: p.sub(self._transformed(name, grads[name]), alpha=self.lr) for name, p in params.items()
        }, state

    def learned(self, adapt: Callable[[], None]) -> list[Figure]:  # noqa: ARG002
        """Return the singular values of the matrices."""
        matrices = {name: list(several.parameters()) for name, several in self.matrices.items()}
        return [spectra_figure({name: several for name, several in matrices.items() if several})]

    def _transformed(self, name: str, gradient: Tensor) -> Tensor:
        if gradient.dim() == 1:
            return gradient
        g = _three(gradient, 1)
        matrices = iter(self.matrices[key(name)].parameters())
        for dimension in range(1, g.dim()):
            if g.shape[dimension] > 1:
                g = (g.movedim(dimension, -1) @ next(matrices).T).movedim(-1, dimension)
        return g.reshape(gradient.shape)


def _three(tensor: Tensor, leading: int) -> Tensor:
    """Return a weight with all filter entries in one dimension."""
    return tensor.flatten(leading + 2) if tensor.dim() > leading + 2 else tensor
