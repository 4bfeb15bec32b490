"""The embedding of T tasks' examples in one pass of a network, each task with its own batch statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


@dataclass(frozen=True)
class _Pass:
    """What the norms of a network need to know of one forward pass.

    Attributes:
        tasks: number of tasks T, whose examples follow one another.
        batch_statistics: whether each task is normalised by its own examples, else by running statistics.
        seen: mean and variance of each task, [T, channels], by the norm that they are of; None: not kept.
    """

    tasks: int
    batch_statistics: bool
    seen: dict[TaskNorm, tuple[Tensor, Tensor]] | None = field(default=None, compare=False)


# Set for the time of a forward pass, in the thread that makes it.
_pass: ContextVar[_Pass | None] = ContextVar("pass", default=None)


class TaskNorm(nn.Module):
    """A batch norm that normalises the examples of each task by themselves.

    It takes the place of a torch batch norm, whose parameters it keeps. Its running statistics are changed by
    nothing but the outer loop: a forward pass only tells what they would become.

    Args:
        norm: the batch norm; where it has running statistics, those are the first.

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
        now = _pass.get() or _Pass(tasks=1, batch_statistics=True)
        if not now.batch_statistics:
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        normalised, statistics = [], []
        for examples in x.view(now.tasks, -1, *x.shape[1:]).unbind():
            # With momentum 1 torch writes this batch's mean and unbiased variance into them.
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            normalised.append(
                F.batch_norm(examples, mean, var, self.weight, self.bias, True, momentum=1.0, eps=self.eps)
            )
            statistics.append((mean, var))
        if now.seen is not None:
            means, variances = zip(*statistics, strict=True)
            now.seen[self] = torch.stack(means), torch.stack(variances)
        return torch.cat(normalised) if len(normalised) > 1 else normalised[0]

    def changes(self, statistics: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """Return what the tasks' statistics add to the running ones, [T, channels] by name (torch's rule)."""
        mean, var = statistics
        return {
            "running_mean": self.momentum * (mean - self.running_mean),
            "running_var": self.momentum * (var - self.running_var),
        }


class Embedding(nn.Module):
    """Embeds the examples of all tasks in one pass of a network.

    Args:
        model: the network without a head; its batch norms become `TaskNorm`s, under the same names.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for parent in list(model.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BatchNorm):
                    setattr(parent, name, TaskNorm(child))
        self._norms = {module: name for name, module in model.named_modules() if isinstance(module, TaskNorm)}

    @property
    def has_batch_norms(self) -> bool:
        """Whether an embedding depends on the statistics of other examples."""
        return bool(self._norms)

    def forward(self, x: Tensor, *, batch_statistics: bool) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Embed examples.

        Args:
            x: [T, n, …].
            batch_statistics: whether batch norms normalise each task by its own n examples, else by their
                running statistics.

        Returns:
            The embeddings [T, n, features]; and in training mode what the tasks add to each running
            statistic, [T, channels] by name.
        """
        seen: dict[TaskNorm, tuple[Tensor, Tensor]] | None = {} if self.training else None
        with _passing(_Pass(len(x), batch_statistics, seen)):
            features: Tensor = self.model(x.flatten(0, 1))
        with torch.no_grad():
            changes = {
                f"model.{self._norms[norm]}.{name}": change
                for norm, statistics in (seen or {}).items()
                for name, change in norm.changes(statistics).items()
            }
        return features.view(len(x), x.shape[1], -1), changes


@contextmanager
def _passing(now: _Pass) -> Iterator[None]:
    token = _pass.set(now)
    try:
        yield
    finally:
        _pass.reset(token)
