"""The outer loop's optimizer, its schedule and gradient clipping (`outer=`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn


class OuterSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/outer, in words there."""

    optimizer: dict[str, Any]
    lr: NonNegativeFloat
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    final_lr: NonNegativeFloat = 0.0
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of meta-step `step` of `steps`, a pure function of both."""
        done = step / steps
        if self.schedule == "linear":
            return self.lr + (self.final_lr - self.lr) * done
        if self.schedule == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * done)) / 2
        return self.lr


class Outer:
    """One optimizer over all meta-parameters.

    Args:
        settings: rate, schedule and clipping.
        make: a torch.optim.Optimizer, given the parameters and lr.
        parameters: the meta-parameters.
        steps: meta-steps of the whole run, for the schedule.
        carried: what an update rule carries from task to task; it goes all of its way at every step.
    """

    def __init__(
        self,
        settings: OuterSettings,
        make: Callable[..., torch.optim.Optimizer],
        parameters: Iterable[nn.Parameter],
        steps: int,
        carried: Sequence[nn.Parameter] = (),
    ) -> None:
        self.settings, self.steps, self.carried = settings, steps, carried
        self.trained = list(parameters)
        self.optimizer = make(self.trained, lr=settings.lr)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that moves at a step."""
        return [*self.trained, *self.carried]

    def step(self, step: int) -> None:
        """Clip the gradients, apply them at the rate of this meta-step, and forget them."""
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.trained, self.settings.clip_value)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.trained, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step, self.steps)
        self.optimizer.step()
        with torch.no_grad():
            for p in self.carried:
                if p.grad is not None:
                    p.sub_(p.grad)
        self.forget()

    def forget(self) -> None:
        """Forget the gradients."""
        self.optimizer.zero_grad(set_to_none=True)
        for p in self.carried:
            p.grad = None

    def state_dict(self) -> dict[str, Tensor | Any]:
        """Return what a checkpoint must hold: tensors and plain values."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.optimizer.load_state_dict(state)
