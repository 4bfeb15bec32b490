"""How many tasks are in memory at once (`engine.chunk`)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.tasks import TaskBatch

# Larger chunks on a CPU gain nothing and soon lose: the same step of Conv4 with 5 query images a class takes
# 0.47 s in chunks of 4 tasks (140 MiB) and 0.65 s in one of 16 (570 MiB), 2 cores, torch 2.13.
_CPU_BYTES = 2**27
_CUDA_SHARE = 0.25
# Beyond this a chunk is no faster, however small its tasks are.
_MOST_TASKS = 256


def chunk_size(
    setting: Literal["auto"] | int,
    metagradient: MetaGradient,
    learner: Learner[Any],
    task: TaskBatch,
) -> int:
    """Return how many tasks to process at a time, while training and while evaluating.

    `auto` measures what the meta-gradient of one task keeps for its backward pass, and takes as many tasks
    as fit into 128 MiB, or into a quarter of a GPU's memory, 256 at most. It depends on nothing that
    changes between two runs on one machine, so neither do the results.
    """
    if setting != "auto":
        return setting
    device = task.support.x.device
    if device.type == "cuda":
        budget = int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    else:
        budget = _CPU_BYTES
    return max(1, min(_MOST_TASKS, budget // bytes_of_one_task(metagradient, learner, task)))


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
