"""What one update of the outer loop is given: the meta-step of all processes, if it is finite."""

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

# So many skipped meta-steps in a row mean that there is nothing left to go on with.
_MOST_SKIPPED = 100

Means = dict[str, Tensor]
"""The mean over a whole meta-batch of each score."""


def of_all_ranks(
    own: MetaStep, learner: nn.Module, ranks: Ranks, meta_batch_size: int, asked: Callable[[], int]
) -> tuple[MetaStep, Means, int]:
    """Return a meta-step of the whole meta-batch, its mean scores, and why the run should stop, if it should.

    Args:
        own: the meta-step of this process's share of the tasks.
        learner: whose meta-parameters it is of.
        ranks: this process among those of the run.
        meta_batch_size: tasks of the whole meta-batch.
        asked: why this process should stop; the answer is the same for all processes.
    """
    sums = torch.stack([values.sum() for values in own.scores.values()]) / meta_batch_size
    if ranks.count == 1:
        return own, dict(zip(own.scores, sums, strict=True)), asked()
    why = asked()
    parameters = dict(learner.named_parameters())
    changing = {name: p for name, p in parameters.items() if p.requires_grad or name in own.assignments}
    numbers = torch.cat([sums, sums.new_tensor([why > 0, why < 0])])
    changed, total = ranks.all_reduce({**own.gradients, **own.assignments}, changing, numbers)
    assignments = {name: changed.pop(name) for name in own.assignments}
    *_, signals, times = total.tolist()
    reason = why if why > 0 else signal.SIGTERM if signals else -1 if times else 0
    return MetaStep(changed, own.scores, assignments), dict(zip(own.scores, total, strict=False)), reason


def assign(learner: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give parameters that are no meta-parameters their new values."""
    with torch.no_grad():
        for name, value in values.items():
            learner.get_parameter(name).copy_(value)


def is_finite(parameters: Iterable[nn.Parameter], means: Means) -> bool:
    """Say whether the loss and the whole meta-gradient are finite: one wait for the device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return bool((nn.utils.get_total_norm(gradients) + means["loss"]).isfinite())


class SkippedSteps:
    """Meta-steps whose meta-gradient was not finite.

    Attributes:
        all: how many there were.
        in_a_row: how many of them came last.
    """

    def __init__(self) -> None:
        self.all = self.in_a_row = 0

    def add(self, step: int, means: Means) -> None:
        """Count one.

        Args:
            step: which meta-step it is, from 1.
            means: its scores.
        """
        self.all, self.in_a_row = self.all + 1, self.in_a_row + 1
        log.warning("step %d is skipped: %s (%d so far)", step, what_is_wrong(means), self.all)

    @property
    def too_many(self) -> bool:
        """Whether one more would leave nothing to go on with."""
        return self.in_a_row + 1 >= _MOST_SKIPPED

    def state_dict(self) -> dict[str, int]:
        """Return what a checkpoint must hold."""
        return {"all": self.all, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from a checkpoint."""
        self.all, self.in_a_row = state["all"], state["in_a_row"]


def what_is_wrong(means: Means, *, too_many: bool = False) -> str:
    """Return what of a meta-step is not finite, in words."""
    loss = means["loss"].item()
    what = f"the loss is {loss}" if not math.isfinite(loss) else "the meta-gradient is not finite"
    return f"{what} for {_MOST_SKIPPED} consecutive steps, last" if too_many else what
