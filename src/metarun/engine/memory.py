"""What a meta-gradient keeps in memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.tasks import TaskBatch


def bytes_kept(metagradient: MetaGradient, learner: Learner[Any], tasks: TaskBatch) -> int:
    """Return the most bytes that autograd keeps at once during the meta-gradient of these tasks."""
    ledger = _Ledger()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Kept(tensor, ledger), lambda kept: kept.tensor
    ):
        metagradient.gradients(learner, tasks, 1.0)
    return max(1, ledger.most)


class _Ledger:
    """Bytes of the storages that are kept now, and the most there were; several tensors may share one."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0


class _Kept:
    """A tensor that autograd keeps, counted for as long as it does."""

    def __init__(self, tensor: Tensor, ledger: _Ledger) -> None:
        self.tensor, self._ledger = tensor, ledger
        storage = tensor.untyped_storage()
        self._place, self._bytes = storage.data_ptr(), storage.nbytes()
        ledger.holders[self._place] += 1
        if ledger.holders[self._place] == 1:
            ledger.now += self._bytes
            ledger.most = max(ledger.most, ledger.now)

    def __del__(self) -> None:
        self._ledger.holders[self._place] -= 1
        if self._ledger.holders[self._place] == 0:
            self._ledger.now -= self._bytes


def too_large() -> MetarunError:
    """Return the error for when memory runs out with one task in it."""
    return MetarunError(
        "one task does not fit into memory: type engine.rematerialise=true, engine.workers=1, "
        "or a smaller data.query or model"
    )
