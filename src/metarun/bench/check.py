"""The check that a side computes the same meta-gradient as metarun."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarun.bench.sides import Start, metarun
from metarun.bench.work import Work, make_work

_WITHIN = 1e-8
_TASKS = 3


class Check:
    """metarun's meta-gradient in float64 on 3 tasks, to compare other sides with."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._overrides = overrides
        self._ours = self._meta_gradient(metarun)

    def relative_error(self, start: Start) -> float:
        """Return how far a side's meta-gradient is from metarun's, relative to its own norm."""
        theirs = self._meta_gradient(start)
        return float((self._ours - theirs).norm() / theirs.norm())

    def work(self) -> Work:
        """Return a new work for every side, so that a failing side cannot affect the next.

        Its weights are moved away from the initialisation: with the initial small weights the gradient of the
        first layers is so small a part of the whole that an error in it would not be noticed.
        """
        work = make_work(self._overrides, torch.device("cpu"), torch.float64, _TASKS)
        work.settings = work.settings.model_copy(update={"chunk": _TASKS})  # nothing has to be measured
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in work.learner.model.parameters():
                p.add_(0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator))
        return work

    def _meta_gradient(self, start: Start) -> Tensor:
        work = self.work()
        side = start(work)
        side.compute()
        side.deliver()
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in work.learner.parameters()]
        return torch.cat([g.flatten() for g in gradients])


def is_the_same(error: float) -> bool:
    """Return whether two meta-gradients with this relative error count as the same."""
    return error < _WITHIN
