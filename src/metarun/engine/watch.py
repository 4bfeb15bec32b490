"""Whether a training runs as fast as measured, and which engine with the same bits is the fastest now."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from metarun.engine.executor import split_into_chunks
from metarun.engine.measuring import measure
from metarun.engine.settings import Engine
from metarun.learners import Learner
from metarun.tasks import Tasks

log = logging.getLogger("metarun")

_THREADS = torch.get_num_threads()  # before an engine sets it

# Measures again if the median of this many consecutive meta-steps is this many times as long as expected.
_STEPS, _CLEARLY = 20, 1.5


class Watch:
    """Measures engines again if meta-steps take clearly longer than they did when the engine was chosen.

    Timings from a busy machine may be wrong on a free one, and vice versa. Only the number of workers
    changes, and only if the chunks stay the same, so that the results keep every bit.

    Args:
        engine: the chosen engine.
        tasks: number of tasks of a meta-step.
        is_open: whether the number of workers may change at all.
    """

    def __init__(self, engine: Engine, tasks: int, *, is_open: bool) -> None:
        self._expected = (engine.seconds_per_task or 0.0) * tasks
        self._candidates = with_the_same_bits(engine, tasks) if is_open and self._expected else []
        self._times: deque[float] = deque(maxlen=_STEPS)
        self._pause = 0

    def notes(self, seconds: float) -> bool:
        """Record how long a meta-step took, and return whether to measure again."""
        if len(self._candidates) < 2:
            return False
        self._times.append(seconds)
        self._pause = max(0, self._pause - 1)
        return self._pause == 0 and len(self._times) == _STEPS and median(self._times) > self._limit

    @property
    def _limit(self) -> float:
        return _CLEARLY * self._expected

    def measure(self, learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object]) -> Engine:
        """Return the engine that is the fastest now.

        On a machine that stays slow it is called more and more rarely.
        """
        observed = median(self._times)
        timings = measure(learner, tasks, compute, self._candidates)
        fastest = min(timings, key=lambda engine: timings[engine].median)
        self._expected = max(timings[fastest].median * len(tasks), observed / _CLEARLY)
        self._times.clear()
        self._pause = 50 * _STEPS
        log.info("engine: meta-steps take longer than when it was chosen; now %s", fastest.in_words())
        return replace(fastest, seconds_per_task=self._expected / len(tasks))


def with_the_same_bits(engine: Engine, tasks: int) -> list[Engine]:
    """Return the engines, with any number of workers, that cut the tasks into the same chunks."""
    chunks = split_into_chunks(tasks, engine.chunk, engine.workers)
    candidates = (replace(engine, workers=workers) for workers in range(_THREADS, 0, -1))
    return [e for e in candidates if split_into_chunks(tasks, e.chunk, e.workers) == chunks]
