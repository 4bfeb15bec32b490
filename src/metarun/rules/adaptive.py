"""Rules that divide by the root of squared gradients: Adagrad, RMSProp, Adam, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from metarun.rules.rule import Decay, Parameters, key, zeros
from metarun.rules.transformations import (
    AddDecayedWeights,
    Chain,
    ScaleByAdam,
    ScaleByRms,
    ScaleByRss,
    Trace,
    Transformation,
)


def _decay(weight_decay: float) -> list[Transformation]:
    return [AddDecayedWeights(weight_decay)] if weight_decay else []


class Adagrad(Chain):
    """φ ← φ − α g / (√Σg² + ε) (Duchi, Hazan & Singer 2011, JMLR 12), as torch.optim.Adagrad.

    Args:
        lr: the rate α.
        lr_decay: η, where step k = 0, 1, … has the rate α / (1 + kη).
        weight_decay: λ, where g = ∇L(φ) + λ φ.
        initial_sum: initial value of the sums of squared gradients.
        eps: ε.
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat,
        lr_decay: NonNegativeFloat = 0.0,
        weight_decay: NonNegativeFloat = 0.0,
        initial_sum: NonNegativeFloat = 0.0,
        eps: PositiveFloat = 1e-10,
    ) -> None:
        rate = lambda step: lr / (1 + step * lr_decay)
        super().__init__(*_decay(weight_decay), ScaleByRss(initial_sum, eps, rate), lr=1.0)
        self.lr_decay, self.weight_decay = lr_decay, weight_decay


class RMSProp(Chain):
    """φ ← φ − α g / (√v + ε), v a running mean of g² (Tieleman & Hinton 2012), as torch.optim.RMSprop.

    Args:
        lr: the rate α.
        alpha: decay of the running means.
        eps: ε.
        weight_decay: λ, where g = ∇L(φ) + λ φ.
        momentum: decay of a velocity of these steps; 0: no momentum.
        centered: subtract the squared mean of g from v (Graves 2013, arXiv:1308.0850).
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat,
        alpha: Decay = 0.99,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        momentum: Decay = 0.0,
        centered: bool = False,
    ) -> None:
        steps = [*_decay(weight_decay), ScaleByRms(alpha, eps, centered=centered)]
        if momentum:
            steps.append(Trace(lambda name, step: momentum))  # noqa: ARG005
        super().__init__(*steps, lr=lr)
        self.weight_decay = weight_decay


class Adam(Chain):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), with a fresh state for every task.

    With β1 = 0 and kept second moments, this is the inner rule of Reptile's published runs (Nichol et al.
    2018, arXiv:1803.02999). In the authors' code, tasks update the second moments one after another; here
    they become the mean over the tasks of a meta-batch.

    Args:
        lr: the rate α.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squared gradients.
        eps: added to the denominator.
        weight_decay: λ; added to the gradient as λφ, or with `decoupled` subtracted from φ as αλφ (AdamW,
            Loshchilov & Hutter 2019, arXiv:1711.05101).
        decoupled: whether weight decay is decoupled.
        second_moments: `fresh` for every task; or `kept` from earlier tasks, with the number of earlier steps
            for the bias correction.
    """

    def __init__(
        self,
        *,
        lr: NonNegativeFloat,
        beta1: Decay = 0.9,
        beta2: Decay = 0.999,
        eps: PositiveFloat = 1e-8,
        weight_decay: NonNegativeFloat = 0.0,
        decoupled: bool = False,
        second_moments: Literal["fresh", "kept"] = "fresh",
    ) -> None:
        scaling = ScaleByAdam(beta1, beta2, eps, rate=lr, start=self._second_moments, taken=self._steps_taken)
        super().__init__(*(() if decoupled else _decay(weight_decay)), scaling, lr=1.0)
        self.weight_decay = weight_decay
        self._shrinkage = 1 - lr * weight_decay if decoupled else 1.0
        self._scaling_index = self.transformations.index(scaling)
        self.keeps_state = second_moments == "kept"
        self.second = nn.ParameterDict()
        self.taken: nn.Parameter | None = None

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:  # noqa: ARG002
        """Create parameters for the kept second moments and the number of steps that they average."""
        if self.keeps_state:
            for name, p in initial.items():
                self.second[key(name)] = nn.Parameter(torch.zeros_like(p), requires_grad=False)
            first = next(iter(initial.values()))
            self.taken = nn.Parameter(first.new_zeros(()), requires_grad=False)

    def _second_moments(self, params: Parameters) -> Parameters:
        """Return zero second moments, or the second moments kept from earlier tasks."""
        if not self.keeps_state:
            return zeros(params)
        return {name: self.second[key(name)].expand_as(p) for name, p in params.items()}

    def _steps_taken(self) -> float | Tensor:
        return 0 if self.taken is None else self.taken

    def move(self, params: Parameters, updates: Parameters, step: int) -> Parameters:
        """Return the parameters moved against the updates, after decoupled weight decay has shrunk them."""
        if self._shrinkage != 1:
            params = {name: p * self._shrinkage for name, p in params.items()}
        return super().move(params, updates, step)

    def persistent_state(self, state: tuple[Any, ...], steps: int) -> Parameters:
        """Return each task's second moments, and the number of steps that they average."""
        if self.taken is None:
            return {}
        second = {f"second.{key(name)}": v for name, v in state[self._scaling_index][1].items()}
        tasks = len(next(iter(second.values())))
        return {**second, "taken": (self.taken + steps).expand(tasks)}
