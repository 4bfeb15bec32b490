"""How the work is computed (`engine=`): tasks in memory at once, threads, workers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import BaseModel, PositiveInt
from torch import Tensor

from metarun.allocator import keep_large_blocks
from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.tasks import TaskBatch
from metarun.workers import Workers

_THREADS = torch.get_num_threads()
# Work below this size gains nothing from a second thread, and loses much where another process wants the
# core: the default run takes 15 s with one thread; with two the same, and 57 s beside one busy process.
_SMALL_BYTES = 2**23

# Larger chunks on a CPU gain nothing and soon lose: a step of Conv4 on 32 tasks with 5 query images takes
# 0.41 s in chunks of 4 tasks (46 MiB) and 0.53 s in chunks of 11, 2 cores, torch 2.13.
_CPU_BYTES = 2**25
_CUDA_SHARE = 0.25
# Beyond this a chunk is no faster, however small its tasks are.
_MOST_TASKS = 256


class EngineSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/engine, in words there."""

    chunk: Literal["auto"] | PositiveInt = "auto"
    threads: Literal["auto"] | PositiveInt = "auto"
    workers: Literal["auto"] | PositiveInt = "auto"


@dataclass(frozen=True)
class Engine:
    """What was chosen for a run, once and for all of it, so that its bits do not change.

    Attributes:
        chunk: tasks in memory at once, for each worker, while training and while evaluating.
        threads: of each operation of torch on a CPU.
        workers: chunks computed at once.
        keep_memory: whether the C library keeps large blocks for the next step.
    """

    chunk: int
    threads: int
    workers: int
    keep_memory: bool

    def use(self) -> Workers:
        """Make torch work like this from now on, and return the workers."""
        torch.set_num_threads(self.threads)
        if self.keep_memory:
            keep_large_blocks()
        return Workers(self.workers)


def choose(
    settings: EngineSettings,
    metagradient: MetaGradient,
    learner: Learner[Any],
    task: TaskBatch,
    *,
    meta_batch: int,
) -> Engine:
    """Choose what is `auto`, by measuring what the meta-gradient of one task keeps for its backward pass.

    As many tasks form a chunk as fit into 32 MiB, or into a quarter of a GPU's memory, 256 at most. Work on
    a CPU whose meta-batch keeps 8 MiB or more is large: it has a worker for every core, as far as there are
    tasks, with one thread each, and keeps its memory. Nothing of this changes between two runs on one
    machine, so neither do the results.
    """
    device = task.support.x.device
    one = bytes_of_one_task(metagradient, learner, task)
    fitting = max(1, min(_MOST_TASKS, _budget(device) // one))
    large = device.type == "cpu" and one * meta_batch >= _SMALL_BYTES
    many = min(_THREADS, meta_batch) if large else 1
    count = many if settings.workers == "auto" else settings.workers
    each = _THREADS if large and count == 1 else 1
    return Engine(
        chunk=fitting if settings.chunk == "auto" else settings.chunk,
        threads=each if settings.threads == "auto" else settings.threads,
        workers=count,
        keep_memory=large,
    )


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return _CPU_BYTES


def bytes_of_one_task(metagradient: MetaGradient, learner: Learner[Any], task: TaskBatch) -> int:
    """Return the most bytes that autograd keeps at once during one task's meta-gradient."""
    ledger = _Ledger()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _Kept(tensor, ledger), lambda kept: kept.tensor
    ):
        metagradient.gradients(learner, task, 1.0)
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
