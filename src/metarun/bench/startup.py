"""How long a user waits: real commands, from their start."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median

from metarun.bench.rows import Row, conditions
from metarun.errors import MetarunError

_FEWEST, _MOST = 3, 200


def startup(device: str, seconds: float) -> list[Row]:
    """Return rows of the seconds that `metarun --help` takes, and the default run to its first meta-step.

    The first meta-step has been taken when its line is written to metrics.jsonl, whose time is read; what
    the run does afterwards does not count.
    """
    measured: dict[str, Callable[[], float]] = {
        "metarun --help": lambda: seconds_of("--help"),
        "first meta-step": lambda: _seconds_to_first_step(device),
    }
    return [
        {
            "case": "startup",
            "what": what,
            "seconds": median(_repeated(once, seconds)),
            **conditions(device),
        }
        for what, once in measured.items()
    ]


def _repeated(once: Callable[[], float], seconds: float) -> list[float]:
    began = time.perf_counter()
    found: list[float] = []
    while len(found) < _FEWEST or (time.perf_counter() - began < seconds and len(found) < _MOST):
        found.append(once())
    return found


def seconds_of(*arguments: str) -> float:
    """Return how long a command takes in an empty folder.

    Raises:
        MetarunError: it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _metarun(folder, *arguments)
        return time.perf_counter() - began


def _seconds_to_first_step(device: str) -> float:
    # After the first step the run is as short as can be.
    short = ["train.steps=1", "train.validate_every=0", "train.test_tasks=1"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()  # the clock that metrics.jsonl has its times from
        _metarun(folder, f"device={device}", "hydra.run.dir=run", *short)
        first, *_ = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return datetime.fromisoformat(json.loads(first)["time"]).timestamp() - began


def _metarun(folder: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "metarun", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MetarunError(f"metarun {' '.join(arguments)} failed: {done.stderr.strip()}")
