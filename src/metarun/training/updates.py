"""The input of one outer update: the meta-step of all processes, if it is finite."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from metarun.metagradients import MetaStep
from metarun.system.ranks import Ranks

log = logging.getLogger("metarun")

# After this many consecutive skipped meta-steps the run stops.
_MOST_SKIPPED = 100

Means = dict[str, Tensor]
"""The mean of each score over the whole meta-batch."""


def of_all_ranks(
    own: MetaStep, learner: nn.Module, ranks: Ranks, meta_batch_size: int, asked: Callable[[], int]
) -> tuple[MetaStep, Means, int]:
    """Return the meta-step of the whole meta-batch, its mean scores, and the reason to stop (0: none).

    Args:
        own: the meta-step of this process's share of the tasks.
        learner: has the meta-parameters.
        ranks: this process among those of the run.
        meta_batch_size: number of tasks of the whole meta-batch.
        asked: returns this process's reason to stop; the returned reason is the same in all processes.
    """
    sums = torch.stack([values.sum() for values in own.scores.values()]) / meta_batch_size
    if ranks.count == 1:
        return own, dict(zip(own.scores, sums, strict=True)), asked()
    local_reason = asked()
    tensors = _named_tensors(learner)
    changing = {name: t for name, t in tensors.items() if t.requires_grad or name in own.assignments}
    numbers = torch.cat([sums, sums.new_tensor([local_reason > 0, local_reason < 0])])
    reduced, totals = ranks.all_reduce({**own.gradients, **own.assignments}, changing, numbers)
    assignments = {name: reduced.pop(name) for name in own.assignments}
    *_, signals, timeouts = totals.tolist()
    reason = local_reason if local_reason > 0 else signal.SIGTERM if signals else -1 if timeouts else 0
    return MetaStep(reduced, own.scores, assignments), dict(zip(own.scores, totals, strict=False)), reason


def assign(learner: nn.Module, changes: Mapping[str, Tensor]) -> None:
    """Change parameters that are no meta-parameters, and buffers."""
    if not changes:  # most learners have none, at every step
        return
    tensors = _named_tensors(learner)
    with torch.no_grad():
        for name, change in changes.items():
            tensors[name].add_(change)


def _named_tensors(learner: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name."""
    return {**dict(learner.named_parameters()), **dict(learner.named_buffers())}


def is_finite(parameters: Iterable[nn.Parameter], means: Means) -> bool:
    """Return whether the loss and the whole meta-gradient are finite, with one device synchronisation."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return bool((nn.utils.get_total_norm(gradients) + means["loss"]).isfinite())


class SkippedSteps:
    """Meta-steps whose meta-gradient was not finite.

    Attributes:
        all: number of skipped steps in the run.
        in_a_row: number of consecutive skipped steps up to now.
    """

    def __init__(self) -> None:
        self.all = self.in_a_row = 0

    def add(self, step: int, means: Means) -> None:
        """Count a skipped step and log a warning.

        Args:
            step: number of the meta-step, from 1.
            means: its mean scores.
        """
        self.all, self.in_a_row = self.all + 1, self.in_a_row + 1
        log.warning("step %d is skipped: %s (%d so far)", step, what_is_wrong(means), self.all)

    @property
    def too_many(self) -> bool:
        """Whether one more skipped step reaches the limit."""
        return self.in_a_row + 1 >= _MOST_SKIPPED

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint must hold."""
        return {"all": self.all, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue from a checkpoint."""
        self.all, self.in_a_row = state["all"], state["in_a_row"]


def what_is_wrong(means: Means, *, too_many: bool = False) -> str:
    """Return in words what is not finite in a meta-step."""
    loss = means["loss"].item()
    problem = f"the loss is {loss}" if not math.isfinite(loss) else "the meta-gradient is not finite"
    return f"{problem} for {_MOST_SKIPPED} consecutive steps, last" if too_many else problem
