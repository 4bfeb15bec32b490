"""The start-up choice of an engine: what is `auto` is measured, here, for this work, on this machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from metarun.engine.measuring import Timing, measure
from metarun.engine.memory import bytes_kept, too_large
from metarun.engine.remembered import chosen_before, describe, keep_choice
from metarun.engine.settings import Engine, EngineSettings
from metarun.engine.ways import find_way
from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.learners import Learner
from metarun.metagradients import MetaGradient, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.system.files import lock
from metarun.tasks import Tasks

log = logging.getLogger("metarun")

_THREADS = torch.get_num_threads()
# Work below this size gains nothing from a second thread, and loses much where another process wants the
# core: the default run takes 15 s with one thread; with two the same, and 57 s beside one busy process.
_SMALL_BYTES = 2**23

# What all workers together may keep. Chunks that fit are measured, so this guards against swapping only.
_CPU_BYTES = 2**30
_CUDA_FRACTION = 0.25
# Beyond this a chunk is no faster, however small its tasks are.
_MOST_TASKS = 256

# Fewer workers are chosen only where they are faster by far, and remembered only where all cores were free.
_CLEARLY = 0.85
_ALL_CORES = 0.85
# Of a long inner loop, scoring is measured on so many entries of the curve.
_STEPS_MEASURED = 6
# Times that differ so much from one turn to the next say little.
_MOST_SPREAD = 0.25


@dataclass(frozen=True)
class Work:
    """What an engine is chosen for.

    Attributes:
        learner: what computes.
        tasks: a batch of those that it computes with.
        compute: what is computed of some of them.
        description: all that its speed depends on.
    """

    learner: Learner[Any]
    tasks: Tasks
    compute: Callable[[Tasks], object]
    description: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where it is computed."""
        return self.tasks.support.x.device


def choose(
    settings: EngineSettings,
    metagradient: MetaGradient[Any],
    learner: Learner[Any],
    tasks: Tasks,
    progress: Progress | None = None,
) -> Engine:
    """Choose what is `auto` for meta-batches like this one.

    Chunks of 1, 2, 4, … tasks are measured as far as they fit into 1 GiB, or a quarter of a GPU's memory.
    Work on a CPU whose meta-batch keeps 8 MiB or more is large: it keeps its memory, and is measured with one
    worker and with one for every core. What was measured clearly is remembered in the cache folder, so that
    the next run of this work on this machine has the same engine and the same bits.

    Args:
        settings: what is not auto is kept.
        metagradient: what is computed.
        learner: whose.
        tasks: a meta-batch.
        progress: the meta-step that takes the most time and memory.

    Raises:
        ConfigError: the learner cannot be computed, or not as the settings have it.
        MetarunError: one task does not fit into memory.
    """
    when = progress or Progress()
    learner.rematerialise = settings.rematerialise
    try:
        way = find_way(settings, metagradient, learner, tasks, when)
        compute = lambda part: metagradient.gradients(learner, part, when, 1.0)
        work = Work(learner, tasks, compute, describe(learner, tasks, metagradient))
        one = bytes_kept(compute, tasks.part(slice(1)))
    except MetarunError:
        raise
    except Exception as error:  # of a user's class, of any kind
        if is_out_of_memory(error):
            raise too_large() from error
        raise ConfigError(f"the learner cannot be trained on this data: {in_one_line(error)}") from error
    base = Engine(
        chunk=1,
        keep_memory=work.device.type == "cpu" and one * len(tasks) >= _SMALL_BYTES,
        compile=settings.compile,
        rematerialise=settings.rematerialise,
        tf32=settings.tf32,
        plain_attention=way.plain_attention,
    )
    return _fastest(
        work, _candidates(settings if way.together else _apart(settings), base, work, lambda: one)
    )


def choose_for_evaluation(
    settings: EngineSettings, trained_by: Engine, learner: Learner[Any], tasks: Tasks
) -> Engine:
    """Choose what is `auto` for scoring tasks like these, which keeps no graph of the inner loop.

    Args:
        settings: what is not auto is kept.
        trained_by: the engine of the training; what is no matter of speed is as there.
        learner: whose scores; in training mode again afterwards if it was.
        tasks: as many as are worth a chunk.

    Raises:
        MetarunError: one task does not fit into memory.
    """

    def compute(part: Tasks) -> None:
        for _ in islice(learner.curve(part), _STEPS_MEASURED):
            pass

    was_training = learner.training
    learner.eval()
    try:
        work = Work(learner, tasks, compute, describe(learner, tasks))
        # What could be trained one task after another only is scored so, too.
        apart = trained_by.chunk == 1 and not learner.is_known
        base = replace(trained_by, chunk=1, threads=1, workers=1, compile=False)
        one = tasks.part(slice(1))
        candidates = _candidates(
            _apart(settings) if apart else settings, base, work, lambda: bytes_kept(compute, one) + one.bytes
        )
        # It keeps less than a meta-gradient, so that smaller chunks are never faster.
        return _fastest(work, [each for each in candidates if each.chunk >= trained_by.chunk] or candidates)
    finally:
        learner.train(was_training)


def _apart(settings: EngineSettings) -> EngineSettings:
    return settings.model_copy(update={"chunk": 1})


def _candidates(settings: EngineSettings, base: Engine, work: Work, one: Callable[[], int]) -> list[Engine]:
    """Return the engines to measure, those with most workers first.

    Args:
        settings: what is not auto is kept.
        base: what they have in common.
        work: what they are for.
        one: says how many bytes one task keeps; asked where that matters.
    """
    tasks = len(work.tasks)
    is_open = settings.chunk == "auto" and settings.strategy != "per_task" and tasks > 1
    fitting = _budget(work.device) // one() if is_open else tasks
    return [
        replace(base, workers=workers, threads=threads, chunk=chunk)
        for workers, threads in _workers_and_threads(settings, tasks, large=base.keep_memory)
        for chunk in _chunks(settings, fitting // workers, math.ceil(tasks / workers))
    ]


def _workers_and_threads(settings: EngineSettings, tasks: int, *, large: bool) -> list[tuple[int, int]]:
    if not large:
        pairs = [(1, 1)]
    elif tasks == 1 or settings.workers == 1:
        pairs = [(1, 1), (1, _THREADS)]
    else:
        pairs = [(min(_THREADS, tasks), 1), (1, 1)]
    fixed = [
        (
            workers if settings.workers == "auto" else settings.workers,
            threads if settings.threads == "auto" else settings.threads,
        )
        for workers, threads in pairs
    ]
    return list(dict.fromkeys(fixed))


def _chunks(settings: EngineSettings, fitting: int, tasks: int) -> list[int]:
    """Return the chunk sizes to measure, where so many tasks fit and so many there are for a worker."""
    if settings.chunk != "auto":
        return [settings.chunk]
    if settings.strategy == "per_task":
        return [1]
    most = max(1, min(_MOST_TASKS, fitting, tasks))
    sizes = sorted({*(2**exponent for exponent in range(most.bit_length())), most})
    return [size for size in sizes if size > 1] or [2] if settings.strategy == "batched" else sizes


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_CUDA_FRACTION * torch.cuda.get_device_properties(device).total_memory)
    return _CPU_BYTES


def _fastest(work: Work, candidates: list[Engine]) -> Engine:
    """Return the fastest engine, from the cache where this work was clearly measured before."""
    if len(candidates) == 1:
        return candidates[0]
    timings: dict[Engine, Timing] = {}
    try:
        path, before = chosen_before(work.description, candidates)
        if before is not None:
            return before
        with lock(path):  # processes that start together measure one after another, and agree
            _, before = chosen_before(work.description, candidates)
            if before is not None:
                return before
            timings = measure(work.learner, work.tasks, work.compute, candidates)
            if _is_clear(timings):
                keep_choice(path, work.description, _best(timings), timings)
    except OSError as error:
        log.warning("engine: what is measured cannot be kept, the next run may choose otherwise: %s", error)
        timings = timings or measure(work.learner, work.tasks, work.compute, candidates)
    best = _best(timings)
    log.info(
        "engine: of %d measured, %s is the fastest%s",
        len(timings),
        best.in_words(),
        "" if _is_clear(timings) else ", as far as that is clear on a busy machine; it is not remembered",
    )
    return replace(best, seconds_per_task=timings[best].median)


def _best(timings: dict[Engine, Timing]) -> Engine:
    """Return the fastest engine; one with fewer workers than the first only where it is so by far.

    On a machine that is busy just now one worker looks as good as two.
    """
    first = next(iter(timings))
    handicapped = {
        engine: timing.median if engine.workers >= first.workers else timing.median / _CLEARLY
        for engine, timing in timings.items()
    }
    return min(handicapped, key=handicapped.__getitem__)


def _is_clear(timings: dict[Engine, Timing]) -> bool:
    """Say whether another measurement would come to the same."""
    best, first = _best(timings), next(iter(timings))
    if timings[best].spread > _MOST_SPREAD * timings[best].median:
        return False
    return best.workers >= first.workers or timings[first].cores >= _ALL_CORES * first.workers
