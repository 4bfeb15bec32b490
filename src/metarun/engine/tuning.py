"""The choice of an engine at start-up: what is `auto` is measured, for this work, on this machine."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch

from metarun.engine.measuring import Timing, measure
from metarun.engine.memory import CPU_BYTES, bytes_kept, too_large
from metarun.engine.parts import part_of
from metarun.engine.remembered import chosen_before, describe, keep_choice
from metarun.engine.settings import Engine, EngineSettings, with_kernels
from metarun.engine.ways import find_way
from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.learners import Learner, use_kernels
from metarun.metagradients import MetaGradient, Progress
from metarun.system.allocator import is_out_of_memory
from metarun.system.files import lock
from metarun.tasks import Tasks

log = logging.getLogger("metarun")

_THREADS = torch.get_num_threads()
# Smaller work gains nothing from a second thread, and loses much if another process wants the core: the
# default run takes 15 s with one thread; with two the same, and 57 s beside one busy process.
_SMALL_BYTES = 2**23

_CPU_BYTES = CPU_BYTES
_CUDA_FRACTION = 0.25
# Larger chunks are no faster, however small their tasks are.
_MOST_TASKS = 256

# Fewer workers are chosen only if clearly faster, and remembered only if all cores were free.
_CLEARLY = 0.85
_ALL_CORES = 0.85
# Scoring a long inner loop is measured on this many entries of the curve.
_STEPS_MEASURED = 6
# Timings whose relative spread is larger are not remembered.
_MOST_SPREAD = 0.25


@dataclass(frozen=True)
class Work:
    """The work that an engine is chosen for.

    Attributes:
        learner: the learner that computes.
        tasks: a batch of its tasks.
        compute: the computation to time, a function of some of the tasks.
        description: all that its speed depends on.
    """

    learner: Learner[Any]
    tasks: Tasks
    compute: Callable[[Tasks], object]
    description: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """The device of the tasks."""
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
    worker and with one per core. A clear choice is remembered in the cache folder, so that the next run of
    this work on this machine has the same engine and the same bits.

    Args:
        settings: values that are not auto are fixed.
        metagradient: the meta-gradient to compute.
        learner: the learner it trains.
        tasks: a meta-batch.
        progress: the meta-step that takes the most time and memory.

    Raises:
        ConfigError: the learner cannot be trained on these tasks, or not with these settings.
        MetarunError: one task does not fit into memory.
    """
    costliest = progress or Progress()
    learner.rematerialise = settings.rematerialise
    learner.compute_plainly(plainly=settings.plain)
    kernels = with_kernels(settings, learner, tasks.support.x.device)
    use_kernels(enabled=kernels)
    with _in_one_line("trained"):
        mode = find_way(settings, metagradient, learner, tasks, costliest)
        compute = lambda part: metagradient.gradients(learner, part_of(learner, part), costliest, 1.0)
        work = Work(learner, tasks, compute, describe(learner, tasks, metagradient))
        task_bytes = bytes_kept(compute, tasks.part(slice(1)))
    base = Engine(
        chunk=1,
        keep_memory=work.device.type == "cpu" and task_bytes * len(tasks) >= _SMALL_BYTES,
        compile=settings.compile,
        rematerialise=settings.rematerialise,
        kernels=kernels,
        plain=settings.plain,
        tf32=settings.tf32,
        bf16=settings.bf16,
        plain_attention=mode.plain_attention,
    )
    open_settings = settings if mode.together and not settings.plain else _one_at_a_time(settings)
    return _fastest(work, _candidates(open_settings, base, work, lambda: task_bytes))


def choose_for_evaluation(
    settings: EngineSettings, trained_by: Engine, learner: Learner[Any], tasks: Tasks
) -> Engine:
    """Choose what is `auto` for scoring tasks like these, without a graph of the inner loop.

    Args:
        settings: values that are not auto are fixed.
        trained_by: the engine of the training; settings that are not chosen for speed are the same.
        learner: the learner to score; its mode is restored afterwards.
        tasks: as many as the largest chunk that is worth measuring.

    Raises:
        ConfigError: the learner cannot be tested on these tasks.
        MetarunError: one task does not fit into memory.
    """

    def compute(part: Tasks) -> None:
        for _ in islice(learner.curve(part_of(learner, part)), _STEPS_MEASURED):
            pass

    with learner.evaluating():
        with _in_one_line("tested"):
            work = Work(learner, tasks, compute, describe(learner, tasks))
            # If the learner was only trained one task after another, it is scored so, too.
            one_by_one = (trained_by.chunk == 1 and not learner.is_known) or bool(learner.apart(tasks))
            one_by_one = one_by_one or trained_by.plain
            base = replace(trained_by, chunk=1, threads=1, workers=1, compile=False)
            task = tasks.part(slice(1))
            open_settings = _one_at_a_time(settings) if one_by_one else settings
            candidates = _candidates(
                open_settings, base, work, lambda: bytes_kept(compute, task) + task.bytes
            )
        # Scoring keeps less than a meta-gradient, so that smaller chunks are never faster.
        return _fastest(work, [e for e in candidates if e.chunk >= trained_by.chunk] or candidates)


def engine_of_a_test(settings: EngineSettings, learner: Learner[Any], tasks: Tasks) -> Engine:
    """Return the engine that `choose_for_evaluation` starts from, of a learner that is not trained."""
    with _in_one_line("tested"):
        mode = find_way(settings, None, learner, tasks)
    return Engine(
        chunk=2 if mode.together and not settings.plain else 1,
        kernels=with_kernels(settings, learner, tasks.support.x.device),
        plain=settings.plain,
        keep_memory=tasks.support.x.device.type == "cpu",
        tf32=settings.tf32,
        bf16=settings.bf16,
        plain_attention=mode.plain_attention,
    )


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Raise ConfigError for any error of a user's class, and MetarunError where memory runs out."""
    try:
        yield
    except MetarunError:
        raise
    except Exception as error:  # a user's class may raise anything
        if is_out_of_memory(error):
            raise too_large() from error
        raise ConfigError(f"the learner cannot be {what} on this data: {in_one_line(error)}") from error


def fit_to_memory(engine: Engine, learner: Learner[Any], tasks: Tasks) -> Engine:
    """Return an engine for scoring with no more tasks in a chunk than fit into memory.

    Args:
        engine: chosen for other tasks, perhaps.
        learner: in evaluation mode or not.
        tasks: one or more of those to score.
    """
    with learner.evaluating():
        task = tasks.part(slice(1))
        scored = lambda part: list(islice(learner.curve(part_of(learner, part)), _STEPS_MEASURED))
        task_bytes = bytes_kept(scored, task) + task.bytes
    fitting = _budget(task.support.x.device) // (task_bytes * engine.workers)
    return replace(engine, chunk=max(1, min(engine.chunk, fitting)))


def _one_at_a_time(settings: EngineSettings) -> EngineSettings:
    return settings.model_copy(update={"chunk": 1})


def _candidates(
    settings: EngineSettings, base: Engine, work: Work, task_bytes: Callable[[], int]
) -> list[Engine]:
    """Return the engines to measure, those with most workers first.

    Args:
        settings: values that are not auto are fixed.
        base: the settings that the engines have in common.
        work: the work to measure them on.
        task_bytes: returns the bytes that one task keeps; called only if chunks are measured.
    """
    tasks = len(work.tasks)
    is_open = settings.chunk == "auto" and settings.strategy != "per_task" and tasks > 1
    fitting = _budget(work.device) // task_bytes() if is_open else tasks
    return [
        replace(base, workers=workers, threads=threads, chunk=chunk)
        for workers, threads in _workers_and_threads(
            settings, tasks if work.learner.thread_safe else 1, large=base.keep_memory
        )
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
    """Return the chunk sizes to measure, given how many tasks fit and how many a worker has."""
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
    """Return the fastest engine: from the cache if this work was clearly measured before."""
    if len(candidates) == 1:
        return candidates[0]
    timings: dict[Engine, Timing] = {}
    try:
        path, remembered = chosen_before(work.description, candidates)
        if remembered is not None:
            return remembered
        with lock(path):  # processes that start together measure one after another, and agree
            _, remembered = chosen_before(work.description, candidates)
            if remembered is not None:
                return remembered
            timings = measure(work.learner, work.tasks, work.compute, candidates)
            if _is_clear(timings):
                keep_choice(path, work.description, _best(timings), timings)
    except OSError as error:
        log.warning("engine: timings cannot be saved, so the next run may choose another engine: %s", error)
        timings = timings or measure(work.learner, work.tasks, work.compute, candidates)
    best = _best(timings)
    log.info(
        "engine: of %d measured, %s is the fastest%s",
        len(timings),
        best.in_words(),
        "" if _is_clear(timings) else ", but not clearly (is the machine busy?), so it is not remembered",
    )
    return replace(best, seconds_per_task=timings[best].median)


def _best(timings: dict[Engine, Timing]) -> Engine:
    """Return the fastest engine; one with fewer workers than the first only if it is clearly faster.

    On a busy machine one worker looks as good as two.
    """
    first = next(iter(timings))
    handicapped = {
        engine: timing.median if engine.workers >= first.workers else timing.median / _CLEARLY
        for engine, timing in timings.items()
    }
    return min(handicapped, key=handicapped.__getitem__)


def _is_clear(timings: dict[Engine, Timing]) -> bool:
    """Return whether another measurement would likely choose the same engine."""
    best, first = _best(timings), next(iter(timings))
    timed_once = len(timings[best].seconds) == 1 < len(timings)
    if timed_once or timings[best].spread > _MOST_SPREAD * timings[best].median:
        return False
    return best.workers >= first.workers or timings[first].cores >= _ALL_CORES * first.workers
