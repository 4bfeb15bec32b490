"""The start-up choice of an engine: what is `auto` is measured, here, for this work, on this machine."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from metarun import __version__
from metarun.engine.memory import bytes_kept, too_large
from metarun.engine.settings import Engine, EngineSettings
from metarun.engine.ways import find_way
from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.system.allocator import is_out_of_memory
from metarun.system.files import as_json, cache_directory, lock, write_text
from metarun.system.workers import Workers
from metarun.tasks import TaskBatch

log = logging.getLogger("metarun")

_THREADS = torch.get_num_threads()
# Work below this size gains nothing from a second thread, and loses much where another process wants the
# core: the default run takes 15 s with one thread; with two the same, and 57 s beside one busy process.
_SMALL_BYTES = 2**23

# What all workers together may keep. Chunks that fit are measured, so this guards against swapping only.
_CPU_BYTES = 2**30
_CUDA_SHARE = 0.25
# Beyond this a chunk is no faster, however small its tasks are.
_MOST_TASKS = 256

# A larger chunk is not tried once one has lost by this factor, or this many seconds have gone.
_HOPELESS = 1.2
_CLEARLY = 0.85
_SECONDS = 2.0


def choose(
    settings: EngineSettings, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> Engine:
    """Choose what is `auto` for meta-batches like this one.

    Chunks of 1, 2, 4, … tasks are measured as far as they fit into 1 GiB, or a quarter of a GPU's memory.
    Work on a CPU whose meta-batch keeps 8 MiB or more is large: it keeps its memory, and is measured with one
    worker and with one for every core. What was measured is remembered in the cache folder, so that the next
    run of this work on this machine has the same engine and the same bits.

    Raises:
        ConfigError: the learner cannot be computed, or not as the settings have it.
        MetarunError: one task does not fit into memory.
    """
    device = batch.support.x.device
    learner.rematerialise = settings.rematerialise
    try:
        way = find_way(settings, metagradient, learner, batch)
        if not way.together:
            settings = settings.model_copy(update={"chunk": 1})
        one = bytes_kept(metagradient, learner, next(batch.chunks(1)))
    except MetarunError:
        raise
    except Exception as error:  # of a user's class, of any kind
        if is_out_of_memory(error):
            raise too_large() from error
        raise ConfigError(f"the learner cannot be trained on this data: {in_one_line(error)}") from error
    large = device.type == "cpu" and one * len(batch) >= _SMALL_BYTES
    engine = Engine(
        chunk=1,
        threads=1,
        workers=1,
        keep_memory=large,
        compile=settings.compile,
        rematerialise=settings.rematerialise,
        tf32=settings.tf32,
        plain_attention=way.plain_attention,
    )
    candidates = [
        replace(engine, workers=workers, threads=threads, chunk=chunk)
        for workers, threads in _ways(settings, len(batch), large=large)
        for chunk in _chunks(settings, _budget(device) // (one * workers), math.ceil(len(batch) / workers))
    ]
    if len(candidates) == 1:
        return candidates[0]
    return _remembered(candidates, metagradient, learner, batch)


def _ways(settings: EngineSettings, tasks: int, *, large: bool) -> list[tuple[int, int]]:
    """Return the pairs of workers and threads to measure."""
    if not large:
        ways = [(1, 1)]
    elif tasks == 1 or settings.workers == 1:
        ways = [(1, 1), (1, _THREADS)]
    else:
        ways = [(min(_THREADS, tasks), 1), (1, 1)]
    fixed = [
        (
            workers if settings.workers == "auto" else settings.workers,
            threads if settings.threads == "auto" else settings.threads,
        )
        for workers, threads in ways
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
        return int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return _CPU_BYTES


def _remembered(
    candidates: list[Engine], metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> Engine:
    """Return the fastest engine, from the cache where this work was measured before."""
    work = _description(candidates, metagradient, learner, batch)
    digest = hashlib.sha256(as_json(work).encode()).hexdigest()[:16]
    path = cache_directory() / "engine" / f"{digest}.json"
    seconds: dict[Engine, float] = {}
    try:
        with lock(path):  # processes that start together measure one after another, and agree
            kept = _kept(path)
            for engine in candidates:
                if _in_words(engine) == kept:
                    return engine
            seconds = _measure(candidates, metagradient, learner, batch)
            times = [{**_in_words(each), "milliseconds": 1e3 * s} for each, s in seconds.items()]
            content = {"chosen": _in_words(_fastest(seconds)), "a task takes": times, "work": work}
            write_text(path, as_json(content, indent=2) + "\n")
    except OSError as error:
        log.warning("engine: what is measured cannot be kept, the next run may choose otherwise: %s", error)
        seconds = seconds or _measure(candidates, metagradient, learner, batch)
    chosen = _fastest(seconds)
    log.info("engine: of %d measured, %s is the fastest", len(seconds), _in_words(chosen))
    return chosen


def _fastest(seconds: dict[Engine, float]) -> Engine:
    """Return the fastest engine; one with fewer workers than the first only where it is so by far.

    On a machine that is busy just now one worker looks as good as two, and would be remembered.
    """
    first = next(iter(seconds))
    handicapped = {
        engine: taken if engine.workers >= first.workers else taken / _CLEARLY
        for engine, taken in seconds.items()
    }
    return min(handicapped, key=lambda engine: handicapped[engine])


def _in_words(engine: Engine) -> dict[str, int]:
    return {"chunk": engine.chunk, "workers": engine.workers, "threads": engine.threads}


def _kept(path: Path) -> Any:
    """Return what a file says was chosen; None where there is none, or it is damaged."""
    try:
        return json.loads(path.read_text())["chosen"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def _description(
    candidates: list[Engine], metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> dict[str, Any]:
    """Return all that the speed depends on, in words."""
    device = batch.support.x.device
    examples = (batch.support.x, batch.support.y, batch.query.x, batch.query.y)
    return {
        "metarun": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "engine": [
            *(candidates[0].compile, candidates[0].rematerialise),
            *(candidates[0].tf32, candidates[0].plain_attention),
        ],
        "metagradient": f"{type(metagradient).__module__}.{type(metagradient).__qualname__}",
        "its settings": [f"{key}={each}" for key, each in vars(metagradient).items() if key[0] != "_"],
        "learner": repr(learner),
        "steps": repr(getattr(learner, "loop", None)),
        "adapts": sorted(getattr(learner, "adapted_names", ())),
        "parameters": [[name, list(p.shape), str(p.dtype)] for name, p in learner.named_parameters()],
        "examples": [[list(each.shape), str(each.dtype)] for each in examples],
        "candidates": [_in_words(each) for each in candidates],
    }


def _processor() -> str:
    """Return what the processor calls itself, and how many cores torch may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{torch.backends.cpu.get_cpu_capability()} {_THREADS} {' '.join(sorted(names))}"


def _measure(
    candidates: list[Engine], metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> dict[Engine, float]:
    """Return the seconds that a task takes; larger chunks of a way are not tried once they are hopeless.

    Raises:
        MetarunError: memory does not suffice for any of them.
    """
    found: dict[Engine, float] = {}
    ways = dict.fromkeys((each.workers, each.threads) for each in candidates)
    for way in ways:
        began = time.perf_counter()
        best = math.inf
        for engine in candidates:
            if (engine.workers, engine.threads) != way:
                continue
            seconds = _seconds_per_task(engine, metagradient, learner, batch)
            if math.isinf(seconds):
                break
            found[engine] = seconds
            best = min(best, seconds)
            if seconds > _HOPELESS * best or time.perf_counter() - began > _SECONDS:
                break
    if not found:
        raise too_large()
    return found


def _seconds_per_task(
    engine: Engine, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> float:
    """Time a chunk for every worker, all at once; endless where they do not fit into memory."""
    workers = engine.use(learner)
    chunks = list(islice(batch.chunks(engine.chunk), workers.count))
    try:
        times = [_time(workers, metagradient, learner, chunks)]  # the first makes memory and thread pools
        while len(times) < 4 and sum(times) < _SECONDS / 8:
            times.append(_time(workers, metagradient, learner, chunks))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    return min(times) / sum(len(chunk) for chunk in chunks)


def _time(
    workers: Workers, metagradient: MetaGradient, learner: Learner[Any], chunks: list[TaskBatch]
) -> float:
    device = chunks[0].support.x.device
    began = time.perf_counter()
    for _ in workers.map(lambda tasks: metagradient.gradients(learner, tasks, 1.0), chunks):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
