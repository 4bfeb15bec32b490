"""Whether a training runs as fast as measured, and which engine with the same bits is the fastest now."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from metarun.engine.executor import split_into_chunks
from metarun.engine.measuring import measure
from metarun.engine.memory import CPU_BYTES, bytes_kept
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
        engine: the engine that computes now.
        tasks: number of tasks of a meta-step.
        is_open: whether the number of workers may change at all.
    """

    def __init__(self, engine: Engine, tasks: int, *, is_open: bool) -> None:
        self._tasks = tasks
        self._candidates = with_the_same_bits(engine, tasks) if is_open and engine.seconds_per_task else []
        self._expected = expected_seconds(engine, tasks)
        self._times: deque[float] = deque(maxlen=_STEPS)
        self._pause = 0

    def notes(self, seconds: float) -> bool:
        """Record how long a meta-step took, and return whether to measure again."""
        if len(self._candidates) < 2:
            return False
        self._times.append(seconds)
        self._pause = max(0, self._pause - 1)
        slow = len(self._times) == _STEPS and median(self._times) > _CLEARLY * self._expected
        return slow and self._pause == 0

    def measure(
        self, learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object]
    ) -> Engine | None:
        """Return the engine that is the fastest now; None if there is nothing to choose from.

        On a machine that stays slow it is called more and more rarely.
        """
        observed = median(self._times)
        self._times.clear()
        self._pause = 50 * _STEPS
        task_bytes = bytes_kept(compute, tasks.part(slice(1)))
        fitting = [e for e in self._candidates if e.workers * e.chunk * task_bytes <= CPU_BYTES]
        if len(fitting) < 2:
            return None
        timings = measure(learner, tasks, compute, fitting)
        fastest = min(timings, key=lambda engine: timings[engine].median)
        chosen = replace(fastest, seconds_per_task=timings[fastest].median)
        self._expected = max(expected_seconds(chosen, self._tasks), observed / _CLEARLY)
        log.info("engine: meta-steps take longer than when it was chosen; now %s", fastest.in_words())
        return chosen


def expected_seconds(engine: Engine, tasks: int) -> float:
    """Return how long a meta-step takes if every round of chunks takes as long as the one measured."""
    chunks = split_into_chunks(tasks, engine.chunk, engine.workers)
    rounds = math.ceil(len(chunks) / engine.workers)
    together: int = min(engine.workers, len(chunks)) * chunks[0].stop
    return rounds * together * (engine.seconds_per_task or 0.0)


def with_the_same_bits(engine: Engine, tasks: int) -> list[Engine]:
    """Return the engines with one worker, with one per core, and as now, that cut tasks into the same chunks.

    Small work has one worker only: it gains nothing from a second, and loses much on a busy machine.
    """
    if not engine.keep_memory or engine.threads != 1:
        return [engine]
    chunks = split_into_chunks(tasks, engine.chunk, engine.workers)
    counts = dict.fromkeys((min(_THREADS, len(chunks)), engine.workers, 1))
    candidates = (replace(engine, workers=workers) for workers in counts)
    return [e for e in candidates if split_into_chunks(tasks, e.chunk, e.workers) == chunks]
