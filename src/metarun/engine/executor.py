"""The one place where tasks are cut into chunks, spread over workers, and halved where memory ends."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from metarun.engine.memory import too_large
from metarun.engine.settings import Engine
from metarun.learners import Learner
from metarun.system.allocator import is_out_of_memory
from metarun.system.workers import Workers

log = logging.getLogger("metarun")

Item = TypeVar("Item")
Result = TypeVar("Result")

ShowProgress = Callable[[Iterable[Any], int], Iterable[Any]]
"""Wraps an iterable of so many results, as in a progress bar; may raise, to stop."""


class Executor:
    """Computes functions of tasks as an engine says.

    Args:
        engine: how.
        learner: what the functions compute with.
        smaller: told when chunks have become smaller for good, before the work is done again.

    Attributes:
        engine: how it computes now.
    """

    _in_use: ClassVar[Callable[[], Executor | None]] = lambda: None

    def __init__(
        self, engine: Engine, learner: Learner[Any], smaller: Callable[[], None] = lambda: None
    ) -> None:
        self.engine, self._learner, self._smaller = engine, learner, smaller
        self._used: tuple[Engine, Workers] | None = None

    def map(
        self,
        function: Callable[[slice], Result],
        tasks: int,
        show: ShowProgress = lambda results, total: results,  # noqa: ARG005
        prepare: Callable[[Sequence[slice]], None] = lambda chunks: None,  # noqa: ARG005
    ) -> list[Result]:
        """Return what a function makes of each chunk of so many tasks, in their order.

        Where memory runs out everything is computed again, in chunks of half the size from then on.

        Args:
            function: of the places of a chunk's tasks; called by several threads at once, it must change
                nothing that they share.
            tasks: how many.
            show: wraps the results as they come.
            prepare: told of the chunks before several threads work on them.

        Raises:
            MetarunError: not even one task fits into memory.
        """
        while True:
            chunks = split_into_chunks(tasks, self.engine.chunk, self.engine.workers)
            try:
                prepare(chunks)
                return list(show(self.spread(function, chunks), len(chunks)))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                size = chunks[0].stop
                if size == 1:
                    raise too_large() from error
            self.engine = replace(self.engine, chunk=size // 2)
            self._smaller()
            log.warning("memory ran out: from now on in chunks of %d tasks", self.engine.chunk)

    def spread(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield what a function makes of each item, in their order, computed by all workers at once."""
        return self._workers().map(function, items)

    def _workers(self) -> Workers:
        """Return the workers, after torch and the learner were told how to work if they do not know yet."""
        if self._used is None or self._used[0] != self.engine or Executor._in_use() is not self:
            self._used = self.engine, self.engine.use(self._learner)
            Executor._in_use = weakref.ref(self)
        return self._used[1]


def split_into_chunks(tasks: int, largest: int, workers: int = 1) -> list[slice]:
    """Return the places of so many tasks in chunks.

    Chunks have `largest` tasks at most, are one a worker at least, and as equal as that goes.
    """
    most = min(largest, math.ceil(tasks / workers))
    size = math.ceil(tasks / math.ceil(tasks / most))
    return [slice(first, min(first + size, tasks)) for first in range(0, tasks, size)]
