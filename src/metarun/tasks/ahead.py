"""The meta-batches of a training, made several at a time."""

from __future__ import annotations

from metarun.tasks.batch import TaskBatch, TaskSource
from metarun.tasks.episodes import episodes

# A few small episodes take as long to make as a thousand; large ones gain nothing, and are many bytes.
_BYTES = 2**22
_MOST_STEPS = 256


class Ahead:
    """Hands out a source's training episodes by meta-step: step s has episodes s·count … (s + 1)·count − 1.

    They come without `info`, which no training reads. Small ones are made for up to 256 steps at once, in
    blocks that are the same wherever a training begins, so a resumed one sees the same bits.

    Args:
        source: where the episodes are from; prepared.
        count: tasks of a meta-batch.
    """

    def __init__(self, source: TaskSource, count: int) -> None:
        self._source, self._count = source, count
        one = episodes(source, "train", 0, 1)
        tensors = (one.support.x, one.support.y, one.query.x, one.query.y)
        size = count * sum(each.numel() * each.element_size() for each in tensors)
        self._steps = max(1, min(_MOST_STEPS, _BYTES // size))
        self._block = -1
        self._made = one

    def batch(self, step: int) -> TaskBatch:
        """Return the meta-batch of a step."""
        block, place = divmod(step, self._steps)
        if block != self._block:
            tasks = self._steps * self._count
            made = episodes(self._source, "train", block * tasks, tasks)
            self._made, self._block = TaskBatch(made.support, made.query), block
        return self._made.part(slice(place * self._count, (place + 1) * self._count))
