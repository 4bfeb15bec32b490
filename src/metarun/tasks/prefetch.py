"""The meta-batches of a training, made several at a time."""

from __future__ import annotations

from dataclasses import replace

from metarun.tasks.episodes import episodes
from metarun.tasks.types import Tasks, TaskSource

# A few small episodes take as long to make as a thousand; large ones gain nothing, and are many bytes.
_BYTES = 2**22
_MOST_STEPS = 256


class Prefetcher:
    """Hands out a source's training episodes by meta-step: step s has episodes s·count … (s + 1)·count − 1.

    They come without `info`, which no training reads. Small ones are made for up to 256 steps at once, in
    blocks that are the same wherever a training begins, so a resumed one sees the same bits.

    Args:
        source: where the episodes are from; prepared.
        count: tasks of a meta-batch.
    """

    def __init__(self, source: TaskSource, count: int) -> None:
        self._source, self._count = source, count
        self._made = _training(episodes(source, "train", 0, 1))
        self._steps = max(1, min(_MOST_STEPS, _BYTES // (count * self._made.bytes)))
        self._block = -1

    def batch(self, step: int) -> Tasks:
        """Return the meta-batch of a step."""
        block, place = divmod(step, self._steps)
        if block != self._block:
            tasks = self._steps * self._count
            self._made = _training(episodes(self._source, "train", block * tasks, tasks))
            self._block = block
        return self._made.part(slice(place * self._count, (place + 1) * self._count))


def _training(tasks: Tasks) -> Tasks:
    return replace(tasks, info={})
