"""Rules that divide by the root of squared gradients: Adagrad, RMSProp, Adam, AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from metarun.rules.momentum import decayed
from metarun.rules.rule import Decay, Parameters, UpdateRule, key, zeros

Moments = tuple[Parameters, Parameters]


def _sqrt(v: Tensor) -> Tensor:
    """√v whose derivative at v = 0 is 0 instead of infinite: an entry that never had a gradient stays put."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)


class Adagrad(UpdateRule):
    """φ ← φ − α g / (√Σg² + ε) (Duchi, Hazan & Singer 2011, JMLR 12), as torch.optim.Adagrad.

    Args:
        lr: the rate α.
        lr_decay: η, where step k = 0, 1, … has the rate α / (1 + kη).
        weight_decay: λ, where g = ∇L(φ) + λ φ.
        initial_sum: where the sums of squared gradients start.
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
        super().__init__()
        self.lr, self.lr_decay, self.weight_decay = lr, lr_decay, weight_decay
        self.initial_sum, self.eps = initial_sum, eps

    def init(self, params: Parameters) -> Parameters:
        """Return the sums of squared gradients before the first."""
        return {name: torch.full_like(p, self.initial_sum) for name, p in params.items()}

    def update(
        self, params: Parameters, grads: Parameters, state: Parameters, step: int
    ) -> tuple[Parameters, Parameters]:
        """Return the parameters after one step, and the sums."""
        rate = self.lr / (1 + step * self.lr_decay)
        moved, sums = {}, {}
        for name, p in params.items():
            g = decayed(grads[name], p, self.weight_decay)
            sums[name] = state[name] + g.square()
            moved[name] = p - rate * g / (_sqrt(sums[name]) + self.eps)
        return moved, sums


class RMSProp(UpdateRule):
    """φ ← φ − α g / (√v + ε), v a running mean of g² (Tieleman & Hinton 2012), as torch.optim.RMSprop.

    Args:
        lr: the rate α.
        alpha: decay of the running means.
        eps: ε.
        weight_decay: λ, where g = ∇L(φ) + λ φ.
        momentum: decay of a velocity of such steps; 0 for none.
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
        super().__init__()
        self.lr, self.alpha, self.eps, self.weight_decay = lr, alpha, eps, weight_decay
        self.momentum, self.centered = momentum, centered

    def init(self, params: Parameters) -> dict[str, Parameters]:
        """Return zero means and velocities, those that are used."""
        used = {"square": True, "mean": self.centered, "velocity": self.momentum > 0}
        return {what: zeros(params) for what, wanted in used.items() if wanted}

    def update(
        self,
        params: Parameters,
        grads: Parameters,
        state: dict[str, Parameters],
        step: int,  # noqa: ARG002
    ) -> tuple[Parameters, dict[str, Parameters]]:
        """Return the parameters after one step, and the means and velocities."""
        moved: Parameters = {}
        after: dict[str, Parameters] = {what: {} for what in state}
        for name, p in params.items():
            g = decayed(grads[name], p, self.weight_decay)
            v = after["square"][name] = self._mean(state["square"][name], g.square())
            if self.centered:
                mean = after["mean"][name] = self._mean(state["mean"][name], g)
                v = v - mean.square()
            way = g / (_sqrt(v) + self.eps)
            if self.momentum:
                way = after["velocity"][name] = self.momentum * state["velocity"][name] + way
            moved[name] = p.sub(way, alpha=self.lr)
        return moved, after

    def _mean(self, before: Tensor, new: Tensor) -> Tensor:
        return self.alpha * before + (1 - self.alpha) * new


class Adam(UpdateRule):
    """Adam (Kingma & Ba 2015, arXiv:1412.6980, algorithm 1), with a fresh state for every task.

    With β1 = 0 and second moments that are kept it is the inner rule of Reptile's published runs (Nichol et
    al. 2018, arXiv:1803.02999): in the authors' code they live on from task to task. A meta-batch leaves the
    mean of its tasks' here, where the tasks of theirs come one after another.

    Args:
        lr: the rate α.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squared gradients.
        eps: added to the denominator.
        weight_decay: λ; part of the gradient, or with `decoupled` a shrinking of φ by 1 − αλ before the step
            (AdamW, Loshchilov & Hutter 2019, arXiv:1711.05101).
        decoupled: which of the two.
        second_moments: `fresh` for every task, or `kept` from the tasks before, with their bias correction.
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
        super().__init__()
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.weight_decay, self.decoupled = weight_decay, decoupled
        self.carries = second_moments == "kept"
        self.second = nn.ParameterDict()
        self.taken: nn.Parameter | None = None

    def prepare(self, initial: Mapping[str, Tensor], generator: torch.Generator) -> None:  # noqa: ARG002
        """Make room for the second moments that are kept, and for how many steps they are of."""
        if self.carries:
            for name, p in initial.items():
                self.second[key(name)] = nn.Parameter(torch.zeros_like(p), requires_grad=False)
            first = next(iter(initial.values()))
            self.taken = nn.Parameter(first.new_zeros(()), requires_grad=False)

    def init(self, params: Parameters) -> Moments:
        """Return zero first moments, and second ones of zero or of the tasks before."""
        if not self.carries:
            return zeros(params), zeros(params)
        return zeros(params), {name: self.second[key(name)].expand_as(p) for name, p in params.items()}

    def carried(self, state: Moments, steps: int) -> Parameters:
        """Return each task's second moments, and how many steps they are of."""
        if self.taken is None:
            return {}
        after = {f"second.{key(name)}": v for name, v in state[1].items()}
        tasks = len(next(iter(after.values())))
        return {**after, "taken": (self.taken + steps).expand(tasks)}

    def update(
        self, params: Parameters, grads: Parameters, state: Moments, step: int
    ) -> tuple[Parameters, Moments]:
        """Return the parameters after one bias-corrected step, and the new moments."""
        if self.weight_decay and self.decoupled:
            params = {name: p * (1 - self.lr * self.weight_decay) for name, p in params.items()}
        elif self.weight_decay:
            grads = {name: decayed(grads[name], p, self.weight_decay) for name, p in params.items()}
        first = {n: self.beta1 * m + (1 - self.beta1) * grads[n] for n, m in state[0].items()}
        second = {n: self.beta2 * v + (1 - self.beta2) * grads[n].square() for n, v in state[1].items()}
        before = step if self.taken is None else self.taken + step
        unbiased1, unbiased2 = 1 - self.beta1 ** (step + 1), 1 - self.beta2 ** (before + 1)
        moved = {
            n: p - self.lr * (first[n] / unbiased1) / (_sqrt(second[n] / unbiased2) + self.eps)
            for n, p in params.items()
        }
        return moved, (first, second)
