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
from metarun.engine import Engine, EngineSettings
from metarun.learners import Learner
from metarun.ledger import bytes_kept, is_out_of_memory, too_large
from metarun.metagradients import MetaGradient
from metarun.storage import as_json, cache_directory, lock, write_text
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
_SECONDS = 2.0


def choose(
    settings: EngineSettings, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch
) -> Engine:
    """Choose what is `auto` for meta-batches like this one.

    Work on a CPU whose meta-batch keeps 8 MiB or more is large: it has a worker for every core, as far as
    there are tasks, with one thread each, and keeps its memory. The chunk is the fastest of 1, 2, 4, … tasks
    among those that fit into 1 GiB, or a quarter of a GPU's memory. What was measured is remembered in the
    cache folder, so that the next run of this work on this machine has the same engine and the same bits.

    Raises:
        MetarunError: one task does not fit into memory.
    """
    device = batch.support.x.device
    learner.rematerialise = settings.rematerialise
    try:
        one = bytes_kept(metagradient, learner, next(batch.chunks(1)))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise too_large() from error
        raise
    large = device.type == "cpu" and one * len(batch) >= _SMALL_BYTES
    many = min(_THREADS, len(batch)) if large else 1
    workers = many if settings.workers == "auto" else settings.workers
    each = _THREADS if large and workers == 1 else 1
    engine = Engine(
        chunk=1,
        threads=each if settings.threads == "auto" else settings.threads,
        workers=workers,
        keep_memory=large,
        compile=settings.compile,
        rematerialise=settings.rematerialise,
        tf32=settings.tf32,
    )
    if settings.chunk != "auto":
        return replace(engine, chunk=settings.chunk)
    if settings.strategy == "per_task":
        return engine
    most = min(_MOST_TASKS, _budget(device) // (one * workers), math.ceil(len(batch) / workers))
    sizes = _candidates(most)
    if settings.strategy == "batched":
        sizes = [size for size in sizes if size > 1] or [2]
    chunk = sizes[0] if len(sizes) == 1 else _remembered(engine, metagradient, learner, batch, sizes)
    return replace(engine, chunk=chunk)


def _budget(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_CUDA_SHARE * torch.cuda.get_device_properties(device).total_memory)
    return _CPU_BYTES


def _candidates(most: int) -> list[int]:
    """Return the chunk sizes to measure."""
    powers = [2**exponent for exponent in range(max(1, most).bit_length())]
    return sorted({*powers, max(1, most)})


def _remembered(
    engine: Engine, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch, sizes: list[int]
) -> int:
    """Return the fastest size, from the cache where this work was measured before."""
    work = _description(engine, metagradient, learner, batch, sizes)
    digest = hashlib.sha256(as_json(work).encode()).hexdigest()[:16]
    path = cache_directory() / "engine" / f"{digest}.json"
    seconds: dict[int, float] = {}
    try:
        with lock(path):  # processes that start together measure one after another, and agree
            if (kept := _kept(path)) is not None:
                return kept
            seconds = _seconds_per_task(engine, metagradient, learner, batch, sizes)
            write_text(path, as_json({**_fastest(seconds), "work": work}, indent=2) + "\n")
    except OSError as error:
        log.warning("engine: what is measured cannot be kept, the next run may choose otherwise: %s", error)
        seconds = seconds or _seconds_per_task(engine, metagradient, learner, batch, sizes)
    chunk: int = _fastest(seconds)["chunk"]
    log.info("engine: measured chunks of %s tasks, %d is the fastest", [*seconds], chunk)
    return chunk


def _fastest(seconds: dict[int, float]) -> dict[str, Any]:
    return {
        "chunk": min(seconds, key=lambda size: seconds[size]),
        "milliseconds_per_task": {str(size): 1e3 * each for size, each in seconds.items()},
    }


def _kept(path: Path) -> int | None:
    """Return the chunk that a file holds; None where there is none, or it is damaged."""
    try:
        chunk = json.loads(path.read_text())["chunk"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    return chunk if isinstance(chunk, int) and chunk > 0 else None


def _description(
    engine: Engine, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch, sizes: list[int]
) -> dict[str, Any]:
    """Return all that the speed depends on, in words."""
    device = batch.support.x.device
    examples = (batch.support.x, batch.support.y, batch.query.x, batch.query.y)
    return {
        "metarun": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "threads": [engine.threads, engine.workers],
        "engine": [engine.compile, engine.rematerialise, engine.tf32],
        "metagradient": type(metagradient).__name__,
        "learner": repr(learner),
        "steps": repr(getattr(learner, "loop", None)),
        "parameters": [[name, list(p.shape), str(p.dtype)] for name, p in learner.named_parameters()],
        "examples": [[list(each.shape), str(each.dtype)] for each in examples],
        "sizes": sizes,
    }


def _processor() -> str:
    """Return what the processor calls itself, and how many cores torch may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{torch.backends.cpu.get_cpu_capability()} {_THREADS} {' '.join(sorted(names))}"


def _seconds_per_task(
    engine: Engine, metagradient: MetaGradient, learner: Learner[Any], batch: TaskBatch, sizes: list[int]
) -> dict[int, float]:
    """Time chunks of every size, all workers at once, until larger ones are hopeless or memory ends."""
    workers = engine.use(learner)
    found: dict[int, float] = {}
    began = time.perf_counter()
    for size in sizes:
        chunks = list(islice(batch.chunks(size), workers.count))
        tasks = sum(len(chunk) for chunk in chunks)
        try:
            times = [_time(workers, metagradient, learner, chunks)]  # the first makes memory and thread pools
            while len(times) < 4 and sum(times) < _SECONDS / 8:
                times.append(_time(workers, metagradient, learner, chunks))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not found:
                raise
            break
        found[size] = min(times) / tasks
        if found[size] > _HOPELESS * min(found.values()) or time.perf_counter() - began > _SECONDS:
            break
    return found


def _time(workers: Any, metagradient: MetaGradient, learner: Learner[Any], chunks: list[TaskBatch]) -> float:
    device = chunks[0].support.x.device
    began = time.perf_counter()
    for _ in workers.map(lambda tasks: metagradient.gradients(learner, tasks, 1.0), chunks):
        pass
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
