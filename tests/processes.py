"""Real metarun processes that are started, watched, stopped and compared."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import zygote

METARUN = [sys.executable, "-m", "metarun"]
TIMING = ("seconds", "tasks_per_second", "time")


def environment(**more: str) -> dict[str, str]:
    """One thread each, so that tests do not fight over cores."""
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


@contextmanager
def started(
    command: list[str], cwd: Path, output: Path | None = None, **more: str
) -> Iterator[subprocess.Popen[str] | zygote.Forked]:
    """A process in a group of its own, which is gone at the end whatever happens."""
    process: subprocess.Popen[str] | zygote.Forked
    own = environment(**more)
    with (output or Path(os.devnull)).open("a") as file:
        if command[:3] == METARUN and zygote.fits(own):
            process = zygote.fork(command[3:], cwd, own, file, file)
        else:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=own,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
                process.wait()


def wait_until(
    condition: Callable[[], Any],
    process: subprocess.Popen[str] | zygote.Forked | None = None,
    seconds: float = 120,
) -> None:
    """Wait for something to become true, or for the process to end."""
    deadline = time.monotonic() + seconds
    while not condition() and (process is None or process.poll() is None):
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.01)


def lines_of(path: Path) -> int:
    """The number of lines of a file, 0 where there is none."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def untimed(run: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what depends on the clock; every line must be whole."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in each.items() if key not in TIMING} for each in records]


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs have the same parameters, optimizer, metrics and test results, to the last bit."""
    assert (one / "results.json").read_bytes() == (other / "results.json").read_bytes()
    assert untimed(one) == untimed(other)
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        parts = {"learner", "outer", "step", "selection", "skipped", "selection_score"} & a.keys()
        assert len(parts) == {"last.pt": 5, "best.pt": 3}[name]
        for part in parts:
            assert_same(a[part], b[part])


def assert_same(one: Any, other: Any) -> None:
    """Two parts of a checkpoint are equal, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_same(value, other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other
