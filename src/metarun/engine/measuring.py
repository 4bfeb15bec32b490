"""How long a task takes by each of several engines."""

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

# A larger chunk is not tried once one has lost by this factor, or this many seconds have gone.
_TOO_SLOW = 1.2
_SECONDS = 2.0
_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """What was measured of an engine.

    Attributes:
        seconds: for a task, in each turn.
        cores: how many the process had all to itself meanwhile, at most.
    """

    seconds: tuple[float, ...]
    cores: float = math.inf

    @property
    def median(self) -> float:
        """Of the seconds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance between the quartiles of the seconds; nothing where there is one."""
        if len(self.seconds) == 1:
            return 0.0
        low, _, high = quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    def __or__(self, other: Timing) -> Timing:
        """Return what both have measured."""
        finite = [each.cores for each in (self, other) if math.isfinite(each.cores)]
        return Timing(self.seconds + other.seconds, max(finite, default=math.inf))


def measure(
    learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object], candidates: list[Engine]
) -> dict[Engine, Timing]:
    """Return what was measured of the engines that are not far too slow, in their order.

    Every way of workers and threads is tried with larger and larger chunks until they are slower. Then those
    that are near the best take turns, so that what happens on the machine meanwhile favours none of them.

    Raises:
        MetarunError: memory does not suffice for any of them.
    """
    timings: dict[Engine, Timing] = {}
    for way in dict.fromkeys((each.workers, each.threads) for each in candidates):
        began = time.perf_counter()
        best = math.inf
        for engine in (each for each in candidates if (each.workers, each.threads) == way):
            timing = time_once(engine, learner, tasks, compute)
            if timing is None:
                break
            timings[engine] = timing
            best = min(best, timing.median)
            if timing.median > _TOO_SLOW * best or time.perf_counter() - began > _SECONDS:
                break
    if not timings:
        raise too_large()
    near = _near_the_best(timings)
    began = time.perf_counter()
    for number in range(_ROUNDS if len(near) > 1 else 0):
        for engine in near if number % 2 else reversed(near):
            if timing := time_once(engine, learner, tasks, compute):
                timings[engine] |= timing
        if time.perf_counter() - began > _SECONDS:
            break
    return timings


def _near_the_best(timings: dict[Engine, Timing]) -> list[Engine]:
    """Return the engines of each number of workers that one more look may find the fastest."""
    best = min(timing.median for timing in timings.values())
    firsts = {engine.workers: engine for engine in reversed(timings)}
    fastest = {
        workers: min((e for e in timings if e.workers == workers), key=lambda e: timings[e].median)
        for workers in firsts
    }
    near = [engine for engine, timing in timings.items() if timing.median <= _TOO_SLOW * best]
    return list(dict.fromkeys(chain(near, fastest.values() if len(fastest) > 1 else ())))


def time_once(
    engine: Engine, learner: Learner[Any], tasks: Tasks, compute: Callable[[Tasks], object]
) -> Timing | None:
    """Time a chunk for every worker, all at once; None where they do not fit into memory."""
    chunks = [slice(first, first + engine.chunk) for first in range(0, len(tasks), engine.chunk)][
        : engine.workers
    ]
    done = sum(len(range(*chunk.indices(len(tasks)))) for chunk in chunks)
    executor = Executor(engine, learner)
    try:
        took = [_time(executor, chunks, tasks, compute)]  # the first makes memory and thread pools
        if took[0][0] < _SECONDS / 4:
            took = []
        while not took or (len(took) < 3 and sum(wall for wall, _ in took) < _SECONDS / 16):
            took.append(_time(executor, chunks, tasks, compute))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    wall, cpu = min(took)
    return Timing((wall / done,), cpu / wall)


def _time(
    executor: Executor, chunks: list[slice], tasks: Tasks, compute: Callable[[Tasks], object]
) -> tuple[float, float]:
    """Return the seconds that passed, and those that the cores have worked for this process."""
    device = tasks.support.x.device
    began, worked = time.perf_counter(), time.process_time()
    for _ in executor.spread(lambda chunk: compute(tasks.part(chunk)), chunks):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began, time.process_time() - worked
