"""Whether a side computes what metarun computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from metarun.bench.sides import Start, metarun
from metarun.bench.work import Work, make_work

_WITHIN = 1e-8
_TASKS = 3


class Check:
    """metarun's meta-gradient of a work in float64, on 3 tasks, for others to be compared with."""

    def __init__(self, overrides: Sequence[str]) -> None:
        self._overrides = overrides
        self._ours = self._meta_gradient(metarun)

    def relative_error(self, start: Start) -> float:
        """Return how far a side's meta-gradient is from metarun's, relative to its own norm."""
        theirs = self._meta_gradient(start)
        return float((self._ours - theirs).norm() / theirs.norm())

    def work(self) -> Work:
        """Return the work anew, so that a side which fails leaves nothing behind for the next.

        It is at a network some way from the start of a training, whose small weights make the gradient of
        the first layers so small a part of the whole that nobody would see it wrong.
        """
        work = make_work(self._overrides, torch.device("cpu"), torch.float64, _TASKS)
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
        each = [torch.zeros_like(p) if p.grad is None else p.grad for p in work.learner.parameters()]
        return torch.cat([g.flatten() for g in each])


def is_the_same(error: float) -> bool:
    """Say whether two meta-gradients with this relative error are the same."""
    return error < _WITHIN
