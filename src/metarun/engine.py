"""How the work is computed (`engine=`): tasks in memory at once, and threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.tasks import TaskBatch

_THREADS = torch.get_num_threads()
# Work below this size gains nothing from a second thread, and loses much where another process wants the
# core: the default run takes 15 s with one thread; with two the same, and 57 s beside one busy process.
_SMALL_BYTES = 2**23

# Larger chunks on a CPU gain nothing and soon lose: the same step of Conv4 with 5 query images a class takes
# 0.47 s in chunks of 4 tasks (140 MiB) and 0.65 s in one of 16 (570 MiB), 2 cores, torch 2.13.
_CPU_BYTES = 2**27
_CUDA_SHARE = 0.25
# Beyond this a chunk is no faster, however small its tasks are.
_MOST_TASKS = 256


@dataclass(frozen=True)
class Engine:
    """What was chosen for a run, once and for all of it, so that its bits do not change.

    Attributes:
        chunk: tasks in memory at once, while training and while evaluating.
        threads: of torch's operations on a CPU.
    """

    chunk: int
    threads: int

    def use(self) -> None:
        """Make torch work like this from now on."""
        torch.set_num_threads(self.threads)


def choose(
    chunk: Literal["auto"] | int,
    threads: Literal["auto"] | int,
    metagradient: MetaGradient,
    learner: Learner[Any],
    task: TaskBatch,
    *,
    meta_batch: int,
) -> Engine:
    """Choose what is `auto`, by measuring what the meta-gradient of one task keeps for its backward pass.

    As many tasks form a chunk as fit into 128 MiB, or into a quarter of a GPU's memory, 256 at most. There is
    one thread where a chunk of the meta-batch keeps less than 8 MiB, else as many as torch starts with. Both
    depend on nothing that changes between two runs on one machine, so neither do the results.
    """
    one = bytes_of_one_task(metagradient, learner, task)
    fitting = max(1, min(_MOST_TASKS, _budget(task.support.x.device) // one))
    tasks = fitting if chunk == "auto" else chunk
    enough = 1 if one * min(tasks, meta_batch) < _SMALL_BYTES else _THREADS
    return Engine(tasks, enough if threads == "auto" else threads)


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return _CPU_BYTES


def bytes_of_one_task(metagradient: MetaGradient, learner: Learner[Any], task: TaskBatch) -> int:
    """Return the bytes that autograd keeps for one task's meta-gradient; gradients are left as None."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        metagradient.accumulate(learner, task, 1.0)
    learner.zero_grad(set_to_none=True)
    return max(1, sum(kept.values()))
