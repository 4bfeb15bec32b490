"""The memory that a computation keeps for its backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.tasks import Tasks

# What all workers together may keep on a CPU. Chunks that fit are measured, so this prevents swapping only.
CPU_BYTES = 2**30


def bytes_kept(compute: Callable[[Tasks], object], tasks: Tasks) -> int:
    """Return the most bytes that autograd keeps at once during `compute(tasks)`."""
    memory = SavedTensorMemory()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: _SavedTensor(tensor, memory), lambda saved: saved.tensor
    ):
        compute(tasks)
    return max(1, memory.most)


class SavedTensorMemory:
    """Bytes of the storages that are kept now, and the most so far; several tensors may share a storage."""

    def __init__(self) -> None:
        self.holders: Counter[int] = Counter()
        self.now = self.most = 0


class _SavedTensor:
    """A tensor that autograd keeps; it counts for as long as autograd keeps it."""

    def __init__(self, tensor: Tensor, memory: SavedTensorMemory) -> None:
        self.tensor, self._memory = tensor, memory
        storage = tensor.untyped_storage()
        self._place, self._bytes = storage.data_ptr(), storage.nbytes()
        memory.holders[self._place] += 1
        if memory.holders[self._place] == 1:
            memory.now += self._bytes
            memory.most = max(memory.most, memory.now)

    def __del__(self) -> None:
        self._memory.holders[self._place] -= 1
        if self._memory.holders[self._place] == 0:
            self._memory.now -= self._bytes


def too_large() -> MetarunError:
    """Return the error for a single task that does not fit into memory."""
    return MetarunError(
        "one task does not fit into memory",
        "@engine.rematerialise=true, @engine.workers=1, or a smaller @source.query or model",
    )
