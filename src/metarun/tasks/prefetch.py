"""The meta-batches of training, generated for several meta-steps at once."""

from __future__ import annotations

from dataclasses import replace

from metarun.tasks.episodes import episodes
from metarun.tasks.types import Tasks, TaskSource

# Up to this size, a thousand small episodes take as long as a few; larger blocks only take memory.
_BYTES = 2**22
_MOST_STEPS = 256


class Prefetcher:
    """Returns a source's training episodes by meta-step: step s has episodes s·count … (s + 1)·count − 1.

    The episodes have no `info`, which training does not read. Small episodes are generated for up to 256
    steps at once, in blocks that do not depend on the first step, so a resumed run gets the same bits.

    Args:
        source: a prepared source of episodes.
        count: tasks per meta-batch.
    """

    def __init__(self, source: TaskSource, count: int) -> None:
        self._source, self._count = source, count
        self._tasks = _training(episodes(source, "train", 0, 1))
        self._steps = max(1, min(_MOST_STEPS, _BYTES // (count * self._tasks.bytes)))
        self._block = -1

    def batch(self, step: int) -> Tasks:
        """Return the meta-batch of a step."""
        block, offset = divmod(step, self._steps)
        if block != self._block:
            size = self._steps * self._count
            self._tasks = _training(episodes(self._source, "train", block * size, size))
            self._block = block
        return self._tasks.part(slice(offset * self._count, (offset + 1) * self._count))


def _training(tasks: Tasks) -> Tasks:
    return replace(tasks, info={})
