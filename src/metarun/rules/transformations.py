"""Transformations of gradients, which a chain composes to an update rule.

As in optax (DeepMind 2020), except that the rule itself also moves the parameters, which torch does in
one operation. A transformation has no state of its own between calls.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metarun.rules.rule import Parameters, UpdateRule, zeros


class Transformation:
    """A pure, differentiable function of updates by name, [T, …], and of a state."""

    def init(self, params: Parameters) -> Any:  # noqa: ARG002  (those with a state read it)
        """Return the state before the first step."""
        return ()

    @abstractmethod
    def update(
        self, updates: Parameters, state: Any, params: Parameters, step: int
    ) -> tuple[Parameters, Any]:
        """Return the updates and the state of inner step `step` (0, 1, …)."""


class Chain(UpdateRule):
    """Applies transformations to the gradients, one after another, then steps against the result.

    Args:
        transformations: the transformations, in order.
        lr: the rate α of φ ← φ − α u.
    """

    def __init__(self, *transformations: Transformation, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.transformations = transformations

    def init(self, params: Parameters) -> tuple[Any, ...]:
        """Return the state of each transformation."""
        return tuple(transformation.init(params) for transformation in self.transformations)

    def update(
        self, params: Parameters, grads: Parameters, state: tuple[Any, ...], step: int
    ) -> tuple[Parameters, tuple[Any, ...]]:
        """Return the parameters after one step, and the states."""
        updates, new_states = grads, []
        for transformation, old_state in zip(self.transformations, state, strict=True):
            updates, new_state = transformation.update(updates, old_state, params, step)
            new_states.append(new_state)
        return self.move(params, updates, step), tuple(new_states)

    def move(self, params: Parameters, updates: Parameters, step: int) -> Parameters:  # noqa: ARG002
        """Return the parameters moved against the updates."""
        return {name: p.sub(updates[name], alpha=self.lr) for name, p in params.items()}


class AddDecayedWeights(Transformation):
    """u ← u + λ φ. As first transformation: the gradient of λ/2 ‖φ‖²; after a scaling: AdamW's decay.

    Args:
        weight_decay: λ.
    """

    def __init__(self, weight_decay: float) -> None:
        self.weight_decay = weight_decay

    def update(
        self,
        updates: Parameters,
        state: Any,
        params: Parameters,
        step: int,  # noqa: ARG002
    ) -> tuple[Parameters, Any]:
        """Return the updates with the decay."""
        return {name: u.add(params[name], alpha=self.weight_decay) for name, u in updates.items()}, state


class Trace(Transformation):
    """v ← μ v + (1 − d) u, where the first v is u itself; Nesterov's variant returns u + μ v.

    (Polyak 1964; Sutskever et al. 2013, "On the importance of initialization and momentum in deep learning",
    section 2.)

    Args:
        decay: μ of a parameter at a step.
        dampening: d.
        nesterov: whether to look ahead.
    """

    def __init__(
        self,
        decay: Callable[[str, int], float | Tensor],
        dampening: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        self.decay, self.dampening, self.nesterov = decay, dampening, nesterov

    def init(self, params: Parameters) -> Parameters:
        """Return zero velocities."""
        return zeros(params)

    def update(
        self,
        updates: Parameters,
        state: Parameters,
        params: Parameters,  # noqa: ARG002
        step: int,
    ) -> tuple[Parameters, Parameters]:
        """Return the velocities (u + μ v with `nesterov`), and the velocities as the state."""
        if step == 0:
            velocity = updates
        else:
            velocity = {
                name: self.decay(name, step) * state[name] + (1 - self.dampening) * u
                for name, u in updates.items()
            }
        if not self.nesterov:
            return velocity, velocity
        return {name: u + self.decay(name, step) * velocity[name] for name, u in updates.items()}, velocity


class ScaleByRss(Transformation):
    """u ← α u / (√Σu² + ε) (Adagrad, Duchi, Hazan & Singer 2011, JMLR 12).

    Args:
        initial_sum: initial value of the sums.
        eps: ε.
        rate: the rate α of a step; torch multiplies by it before it divides.
    """

    def __init__(
        self,
        initial_sum: float,
        eps: float,
        rate: Callable[[int], float] = lambda step: 1.0,  # noqa: ARG005
    ) -> None:
        self.initial_sum, self.eps, self.rate = initial_sum, eps, rate

    def init(self, params: Parameters) -> Parameters:
        """Return the initial sums of squares."""
        return {name: torch.full_like(p, self.initial_sum) for name, p in params.items()}

    def update(
        self,
        updates: Parameters,
        state: Parameters,
        params: Parameters,  # noqa: ARG002
        step: int,
    ) -> tuple[Parameters, Parameters]:
        """Return the scaled updates, and the sums."""
        rate = self.rate(step)
        sums = {name: state[name] + u.square() for name, u in updates.items()}
        return {name: rate * u / (sqrt(sums[name]) + self.eps) for name, u in updates.items()}, sums


class ScaleByRms(Transformation):
    """u ← u / (√v + ε), v a running mean of u² (RMSProp, Tieleman & Hinton 2012).

    Args:
        alpha: decay of the running means.
        eps: ε.
        centered: subtract the squared mean of u from v (Graves 2013, arXiv:1308.0850).
    """

    def __init__(self, alpha: float, eps: float, *, centered: bool) -> None:
        self.alpha, self.eps, self.centered = alpha, eps, centered

    def init(self, params: Parameters) -> dict[str, Parameters]:
        """Return zero means."""
        return {"square": zeros(params), **({"mean": zeros(params)} if self.centered else {})}

    def update(
        self,
        updates: Parameters,
        state: dict[str, Parameters],
        params: Parameters,  # noqa: ARG002
        step: int,  # noqa: ARG002
    ) -> tuple[Parameters, dict[str, Parameters]]:
        """Return the scaled updates, and the means."""
        means = {"square": {n: self._mean(state["square"][n], u.square()) for n, u in updates.items()}}
        variance = means["square"]
        if self.centered:
            means["mean"] = {n: self._mean(state["mean"][n], u) for n, u in updates.items()}
            variance = {n: v - means["mean"][n].square() for n, v in variance.items()}
        return {n: u / (sqrt(variance[n]) + self.eps) for n, u in updates.items()}, means

    def _mean(self, before: Tensor, new: Tensor) -> Tensor:
        return self.alpha * before + (1 - self.alpha) * new


class ScaleByAdam(Transformation):
    """u ← α m̂ / (√v̂ + ε), bias-corrected running means of u and u² (Kingma & Ba 2015, arXiv:1412.6980).

    Args:
        beta1: decay of the mean of u.
        beta2: decay of the mean of u².
        eps: added to the denominator.
        rate: α.
        start: returns the second moments before the first step.
        taken: returns the number of steps that these second moments average.
    """

    def __init__(
        self,
        beta1: float,
        beta2: float,
        eps: float,
        *,
        rate: float = 1.0,
        start: Callable[[Parameters], Parameters] = zeros,
        taken: Callable[[], float | Tensor] = lambda: 0,
    ) -> None:
        self.beta1, self.beta2, self.eps, self.rate = beta1, beta2, eps, rate
        self.start, self.taken = start, taken

    def init(self, params: Parameters) -> tuple[Parameters, Parameters]:
        """Return zero first moments, and the initial second moments."""
        return zeros(params), self.start(params)

    def update(
        self,
        updates: Parameters,
        state: tuple[Parameters, Parameters],
        params: Parameters,  # noqa: ARG002
        step: int,
    ) -> tuple[Parameters, tuple[Parameters, Parameters]]:
        """Return the scaled updates, and the new moments."""
        first = {n: self.beta1 * m + (1 - self.beta1) * updates[n] for n, m in state[0].items()}
        second = {n: self.beta2 * v + (1 - self.beta2) * updates[n].square() for n, v in state[1].items()}
        unbiased1 = 1 - self.beta1 ** (step + 1)
        unbiased2 = 1 - self.beta2 ** (self.taken() + step + 1)
        scaled = {
            n: self.rate * (first[n] / unbiased1) / (sqrt(second[n] / unbiased2) + self.eps) for n in updates
        }
        return scaled, (first, second)


def sqrt(v: Tensor) -> Tensor:
    """Return √v with derivative 0 instead of ∞ at v = 0: an entry that never had a gradient does not move."""
    positive = v > 0
    return torch.where(positive, torch.where(positive, v, 1.0).sqrt(), 0.0)
