"""Batch norms that normalise each task by its own statistics in one forward pass of T tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.models.dropblock import DropBlock

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class Pass:
    """Settings of one forward pass for the norms of a learner's networks.

    Attributes:
        tasks: number of tasks T; the batch holds the examples of task 0, then of task 1, and so on.
        batch_statistics: True: normalise each task by its own examples; False: by running statistics.
        seen: mean and variance of each task, [T, channels], by norm; None: they are not recorded.
    """

    tasks: int
    batch_statistics: bool
    seen: dict[TaskNorm, tuple[Tensor, Tensor]] | None = field(default=None, compare=False)


# Set during a forward pass, in the thread of that pass.
_pass: ContextVar[Pass | None] = ContextVar("pass", default=None)


@contextmanager
def passing(now: Pass) -> Iterator[None]:
    """Set the pass of all forward calls in a `with` statement."""
    token = _pass.set(now)
    try:
        yield
    finally:
        _pass.reset(token)


def current() -> Pass:
    """Return the pass that a forward call belongs to; outside of all, that of one task."""
    return _pass.get() or Pass(tasks=1, batch_statistics=True)


class TaskNorm(nn.Module):
    """A batch norm that normalises the examples of each task by themselves.

    It replaces a torch batch norm and keeps that norm's parameters. A forward pass does not change running
    statistics: it records the tasks' statistics in `Pass.seen`, and the outer loop applies them. If the
    parameters are frozen, running statistics are used in training, too, and do not change.

    Args:
        norm: the batch norm, whose running statistics, if it has any, are the initial ones.

    Attributes:
        running_mean: [channels].
        running_var: [channels].
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.eps = norm.eps
        self.momentum = 0.1 if norm.momentum is None else norm.momentum
        channels = norm.num_features
        mean, var = norm.running_mean, norm.running_var
        self.register_buffer("running_mean", torch.zeros(channels) if mean is None else mean)
        self.register_buffer("running_var", torch.ones(channels) if var is None else var)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [T · n, channels, …]."""
        now = current()
        if not now.batch_statistics or (self.training and self.frozen):
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        normalised, statistics = [], []
        for examples in x.view(now.tasks, -1, *x.shape[1:]).unbind():
            # With momentum 1, torch writes this batch's mean and unbiased variance into `mean` and `var`.
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            normalised.append(
                F.batch_norm(examples, mean, var, self.weight, self.bias, True, momentum=1.0, eps=self.eps)
            )
            statistics.append((mean, var))
        if now.seen is not None:
            means, variances = zip(*statistics, strict=True)
            now.seen[self] = torch.stack(means), torch.stack(variances)
        return torch.cat(normalised) if len(normalised) > 1 else normalised[0]

    @property
    def frozen(self) -> bool:
        """Whether no parameter is trained; in training the running statistics are used then."""
        return not any(p.requires_grad for p in self.parameters())

    def changes(self, statistics: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return the change of the running statistics by each task, [T, channels] by name (torch's rule)."""
        mean, var = statistics
        return {
            "running_mean": self.momentum * (mean - self.running_mean),
            "running_var": self.momentum * (var - self.running_var),
        }


def with_task_norms(model: nn.Module) -> nn.Module:
    """Replace each batch norm of a network by a `TaskNorm` in place, and return the network."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BatchNorm):
                setattr(parent, name, TaskNorm(child))
    return model


def running_changes(learner: nn.Module, now: Pass) -> dict[str, Tensor]:
    """Return the change of a learner's running statistics by each task of a training pass, [T, …] by name."""
    changes: dict[str, Tensor] = {}
    if now.seen is None:
        return changes
    with torch.no_grad():
        for prefix, module in learner.named_modules():
            if isinstance(module, TaskNorm) and module in now.seen:
                changes |= {f"{prefix}.{name}": c for name, c in module.changes(now.seen[module]).items()}
            if isinstance(module, DropBlock):
                changes[f"{prefix}.passes"] = module.passes.new_ones(now.tasks)
    return changes
