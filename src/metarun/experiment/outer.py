"""The outer loop's optimizer, its schedule and gradient clipping (`outer=`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BaseModel, Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor, nn

from metarun.fields import SomeSteps

_HALF = 0.5


class OuterSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/outer, which describes them."""

    optimizer: dict[str, Any]
    lr: NonNegativeFloat
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    final_lr: NonNegativeFloat = 0.0
    drop_every: SomeSteps | None = None
    drop_to: Annotated[float, Field(gt=0, lt=1)] = _HALF
    clip_norm: PositiveFloat | None = None
    clip_value: PositiveFloat | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.schedule in ("constant", "step") and self.final_lr:
            raise ValueError(
                f"outer.final_lr={self.final_lr} has no effect with outer.schedule={self.schedule}: type "
                f"outer.schedule=linear, or cosine"
            )
        if (self.schedule == "step") != (self.drop_every is not None):
            raise ValueError(
                f"outer.schedule={self.schedule} and outer.drop_every={self.drop_every} do not agree: type "
                f"outer.schedule=step outer.drop_every=2000, or another number of meta-steps"
            )
        if self.drop_to != _HALF and self.drop_every is None:
            raise ValueError(
                f"outer.drop_to={self.drop_to} has no effect with outer.schedule={self.schedule}: type "
                f"outer.schedule=step outer.drop_every=2000, or leave it out"
            )
        return self

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of meta-step `step` of `steps`, a pure function of both."""
        if self.drop_every is not None:
            return float(self.lr * self.drop_to ** (step // self.drop_every))
        fraction = step / steps
        if self.schedule == "linear":
            return self.lr + (self.final_lr - self.lr) * fraction
        if self.schedule == "cosine":
            return self.final_lr + (self.lr - self.final_lr) * (1 + math.cos(math.pi * fraction)) / 2
        return self.lr


class Outer:
    """One optimizer over all meta-parameters.

    Args:
        settings: learning rate, schedule and clipping.
        make: builds a torch.optim.Optimizer from the parameters and lr.
        parameters: the meta-parameters; none where nothing is learned.
        steps: number of meta-steps of the whole run, for the schedule.
    """

    def __init__(
        self,
        settings: OuterSettings,
        make: Callable[..., torch.optim.Optimizer],
        parameters: Iterable[nn.Parameter],
        steps: int,
    ) -> None:
        self.settings, self.steps = settings, steps
        self.parameters = list(parameters)
        # torch refuses an empty list of parameters, but not an empty group.
        self.optimizer = make(self.parameters or [{"params": []}], lr=settings.lr)

    def step(self, step: int) -> None:
        """Clip the gradients, apply them at the learning rate of this meta-step, and clear them."""
        if self.settings.clip_value is not None:
            nn.utils.clip_grad_value_(self.parameters, self.settings.clip_value)
        if self.settings.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.rate(step, self.steps)
        self.optimizer.step()
        self.forget()

    def forget(self) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Tensor | Any]:
        """Return what a checkpoint must hold: tensors and plain values."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.optimizer.load_state_dict(state)
