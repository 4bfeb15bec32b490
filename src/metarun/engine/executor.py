"""The only place that cuts tasks into chunks, spreads them over workers, and halves chunks if memory ends."""

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
"""Wraps an iterable of results (second argument: how many) in e.g. a progress bar; may raise, to stop."""


class Executor:
    """Computes functions of tasks in chunks, with an engine's settings.

    Args:
        engine: the settings.
        learner: the learner that the functions use.
        smaller: called when chunks have become smaller for good, before the work is repeated.

    Attributes:
        engine: the current settings.
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
        """Return the function's result for each chunk of the tasks, in order.

        If memory runs out it computes everything again, with chunks of half the size from then on.

        Args:
            function: takes the slice of a chunk's tasks; several threads call it at once, so it must not
                change what they share.
            tasks: number of tasks.
            show: wraps the results as they come.
            prepare: called with the chunks before several threads work on them.

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
            log.warning("memory ran out: continuing with chunks of %d tasks", self.engine.chunk)

    def spread(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the function's result for each item, in order, computed by all workers at once."""

        def compute(item: Item) -> Result:
            with self.engine.precision():  # of this thread
                return function(item)

        return self._workers().map(compute, items)

    def _workers(self) -> Workers:
        """Return the workers; apply the engine to torch and the learner first, unless it is in use."""
        if self._used is None or self._used[0] != self.engine or Executor._in_use() is not self:
            self._used = self.engine, self.engine.use(self._learner)
            Executor._in_use = weakref.ref(self)
        return self._used[1]


def split_into_chunks(tasks: int, largest: int, workers: int = 1) -> list[slice]:
    """Return the slices that cut `tasks` tasks into chunks.

    Chunks have at most `largest` tasks, at most ⌈tasks / workers⌉, and sizes as equal as possible.
    """
    most = min(largest, math.ceil(tasks / workers))
    size = math.ceil(tasks / math.ceil(tasks / most))
    return [slice(first, min(first + size, tasks)) for first in range(0, tasks, size)]
