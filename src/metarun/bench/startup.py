"""The start-up time of real commands."""

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
    """Return rows with the seconds of `metarun --help`, and of the default run until its first meta-step.

    The end of the first meta-step is the time in its line of metrics.jsonl; the rest of the run does not
    count.
    """
    measures: dict[str, Callable[[], float]] = {
        "metarun --help": lambda: seconds_of("--help"),
        "first meta-step": lambda: _seconds_to_first_step(device),
    }
    return [
        {
            "case": "startup",
            "what": what,
            "seconds": median(_repeat(measure, seconds)),
            **conditions(device),
        }
        for what, measure in measures.items()
    ]


def _repeat(measure: Callable[[], float], seconds: float) -> list[float]:
    began = time.perf_counter()
    values: list[float] = []
    while len(values) < _FEWEST or (time.perf_counter() - began < seconds and len(values) < _MOST):
        values.append(measure())
    return values


def seconds_of(*arguments: str) -> float:
    """Return how long a command takes in an empty folder.

    Raises:
        MetarunError: the command fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        _metarun(folder, *arguments)
        return time.perf_counter() - began


def _seconds_to_first_step(device: str) -> float:
    # The shortest possible run after its first step.
    short = ["train.steps=1", "train.validate_every=0", "train.test_tasks=1"]
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()  # the same clock as that of the times in metrics.jsonl
        _metarun(folder, f"device={device}", "hydra.run.dir=run", *short)
        first, *_ = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
        return datetime.fromisoformat(json.loads(first)["time"]).timestamp() - began


def _metarun(folder: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "metarun", *arguments]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode != 0:
        raise MetarunError(f"metarun {' '.join(arguments)} failed: {process.stderr.strip()}")
