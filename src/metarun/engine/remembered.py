"""Engines that earlier runs chose: one file per kind of work in the cache folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metarun import __version__
from metarun.engine.measuring import Timing
from metarun.engine.settings import Engine
from metarun.learners import Learner
from metarun.metagradients import MetaGradient
from metarun.system.files import as_json, cache_directory, write_text
from metarun.tasks import Tasks

_THREADS = torch.get_num_threads()  # before an engine sets it
_SHARED = ("compile", "rematerialise", "kernels", "plain", "tf32", "bf16", "plain_attention")


def chosen_before(work: Mapping[str, Any], candidates: list[Engine]) -> tuple[Path, Engine | None]:
    """Return the file of this work's choice, and the candidate chosen earlier, if any."""
    options = [engine.in_words() for engine in candidates]
    question = {**work, **_shared_settings(candidates[0]), "candidates": options}
    digest = hashlib.sha256(as_json(question).encode()).hexdigest()[:16]
    path = cache_directory() / "engine" / f"{digest}.json"
    choice = _read_choice(path)
    for engine in candidates:
        if engine.in_words() == choice.get("chosen"):
            return path, replace(engine, seconds_per_task=choice.get("a task takes at best"))
    return path, None


def keep_choice(
    path: Path, work: Mapping[str, Any], chosen: Engine, timings: Mapping[Engine, Timing]
) -> None:
    """Write the choice and its timings, for the next run of this work.

    Raises:
        OSError: the cache folder cannot be written.
    """
    times = [
        {**engine.in_words(), "milliseconds": 1e3 * timing.median, "spread": 1e3 * timing.spread}
        for engine, timing in timings.items()
    ]
    content = {
        "chosen": chosen.in_words(),
        "a task takes at best": timings[chosen].median,
        "a task takes": times,
        "work": {**work, **_shared_settings(chosen)},
    }
    write_text(path, as_json(content, indent=2) + "\n")


def _read_choice(path: Path) -> dict[str, Any]:
    """Return the content of a choice's file; empty if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    if not isinstance(content, dict) or not isinstance(content.get("a task takes at best"), float):
        return {}
    return content


def _shared_settings(engine: Engine) -> dict[str, Any]:
    """Return what all candidates have in common."""
    return {
        "engine": [getattr(engine, name) for name in _SHARED],
    }


def describe(
    learner: Learner[Any], tasks: Tasks, metagradient: MetaGradient[Any] | None = None
) -> dict[str, Any]:
    """Return all that the speed depends on, in words: of the meta-gradient, or of scoring without one."""
    device = tasks.support.x.device
    computation: dict[str, Any] = {"what": "scores"}
    if metagradient is not None:
        kind, settings = type(metagradient), vars(metagradient)
        computation = {
            "metagradient": f"{kind.__module__}.{kind.__qualname__}",
            "its settings": [f"{key}={value}" for key, value in settings.items() if key[0] != "_"],
        }
    return {
        "metarun": __version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        **computation,
        "learner": repr(learner),
        "settings": _settings(learner),
        "adapts": sorted(getattr(learner, "adapted_names", ())),
        "parameters": [[name, list(p.shape), str(p.dtype)] for name, p in learner.named_parameters()],
        "examples": [[list(tensor.shape), str(tensor.dtype)] for tensor in tasks.tensors()],
    }


def _settings(learner: Learner[Any]) -> list[str]:
    """Return the plain values of a learner and its parts, such as numbers of steps and transductive=True."""
    parts = [learner, *vars(learner).values(), *learner.modules()]
    chains = [step for module in learner.modules() for step in getattr(module, "transformations", ())]
    described = []
    for part in (*parts, *chains):
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, int | float | str | None) and name not in ("training", "rematerialise"):
                described.append(f"{type(part).__name__}.{name}={value}")
    return sorted(set(described))


def _processor() -> str:
    """Return the processor's instruction set, the number of threads torch starts with, and its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{torch.backends.cpu.get_cpu_capability()} {_THREADS} {' '.join(sorted(names))}"
