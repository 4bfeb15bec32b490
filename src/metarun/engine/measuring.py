"""How long a task takes with each of several engines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles
from typing import Any

import torch

from metarun.engine.executor import Executor
from metarun.engine.memory import too_large
from metarun.engine.settings import Engine
from metarun.learners import Learner
from metarun.system.allocator import is_out_of_memory
from metarun.tasks import Tasks

# Larger chunks are not tried once one was slower by this factor, or after this many seconds.
_TOO_SLOW = 1.2
_SECONDS = 2.0
_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """The timings of an engine.

    Attributes:
        seconds: per task, in each turn.
        cores: the most cores that the process had to itself meanwhile.
    """

    seconds: tuple[float, ...]
    cores: float = math.inf

    @property
    def median(self) -> float:
        """The median of the seconds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The interquartile range of the seconds; 0 for a single turn."""
        if len(self.seconds) == 1:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    def __or__(self, other: Timing) -> Timing:
        """Return the timings of both."""
        finite = [timing.cores for timing in (self, other) if math.isfinite(timing.cores)]
        return Timing(self.seconds + other.seconds, max(finite, default=math.inf))


def measure(
    learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object], candidates: list[Engine]
) -> dict[Engine, Timing]:
    """Return the timings of the engines that are not far too slow, in the candidates' order.

    Every pair of workers and threads is tried with larger and larger chunks until they get slower. Then the
    engines near the best take turns, so that other load on the machine favours none of them.

    Raises:
        MetarunError: no candidate has enough memory.
    """
    timings: dict[Engine, Timing] = {}
    for pair in dict.fromkeys((engine.workers, engine.threads) for engine in candidates):
        start = time.perf_counter()
        best = math.inf
        for engine in (e for e in candidates if (e.workers, e.threads) == pair):
            timing = time_once(engine, learner, tasks, compute)
            if timing is None:
                break
            timings[engine] = timing
            if timing.median > _TOO_SLOW * best:  # something else may have had the cores: once more
                timings[engine] |= time_once(engine, learner, tasks, compute) or timing
            fastest = min(timings[engine].seconds)
            if fastest > _TOO_SLOW * best or time.perf_counter() - start > _SECONDS:
                break
            best = min(best, fastest)
    if not timings:
        raise too_large()
    near = _near_the_best(timings)
    start = time.perf_counter()
    for number in range(_ROUNDS if len(near) > 1 else 1):
        for engine in near if number % 2 else reversed(near):
            if timing := time_once(engine, learner, tasks, compute):
                timings[engine] |= timing
        if time.perf_counter() - start > _SECONDS:
            break
    return timings


def _near_the_best(timings: dict[Engine, Timing]) -> list[Engine]:
    """Return the engines that may turn out fastest: near the best, or the best for a number of workers."""
    best = min(timing.median for timing in timings.values())
    fastest = {
        workers: min((e for e in timings if e.workers == workers), key=lambda e: timings[e].median)
        for workers in dict.fromkeys(engine.workers for engine in reversed(timings))
    }
    near = [engine for engine, timing in timings.items() if timing.median <= _TOO_SLOW * best]
    return list(dict.fromkeys(chain(near, fastest.values() if len(fastest) > 1 else ())))


def time_once(
    engine: Engine, learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object]
) -> Timing | None:
    """Time one chunk per worker, all at once; None if they do not fit into memory."""
    chunks = [slice(first, first + engine.chunk) for first in range(0, len(tasks), engine.chunk)][
        : engine.workers
    ]
    task_count = sum(len(range(*chunk.indices(len(tasks)))) for chunk in chunks)
    executor = Executor(engine, learner)
    try:
        times = [_time(executor, chunks, tasks, compute)]  # the first allocates memory and thread pools
        if times[0][0] < _SECONDS / 4:
            times = []
        while not times or (len(times) < 3 and sum(wall for wall, _ in times) < _SECONDS / 16):
            times.append(_time(executor, chunks, tasks, compute))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    wall, cpu = min(times)
    return Timing((wall / task_count,), cpu / wall)


def _time(
    executor: Executor, chunks: list[slice], tasks: Tasks, compute: Callable[[Tasks], object]
) -> tuple[float, float]:
    """Return the elapsed seconds, and the CPU seconds of this process."""
    device = tasks.support.x.device
    start, cpu_start = time.perf_counter(), time.process_time()
    for _ in executor.spread(lambda chunk: compute(tasks.part(chunk)), chunks):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start, time.process_time() - cpu_start
