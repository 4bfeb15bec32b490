"""Timing that a noisy machine cannot tilt: the sides take turns, and medians are compared."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from metarun.bench import peers
from metarun.bench.cases import Work, make_work

_FEWEST, _MOST = 3, 200
_WITHIN = 1e-8

THREADS = torch.get_num_threads()


def relative_error(case: str, peer: peers.Peer) -> float:
    """Return how far a peer's meta-gradient is from metarun's, relative to its norm: float64, 3 tasks."""
    work = make_work(case, torch.device("cpu"), torch.float64, tasks=3)
    found = []
    for side in (peers.metarun, peer):
        work.learner.zero_grad(set_to_none=True)
        side(work)
        gradients = [p.grad.flatten() for p in work.learner.parameters() if p.grad is not None]
        found.append(torch.cat(gradients))
    return float((found[0] - found[1]).norm() / found[1].norm())


def is_the_same(error: float) -> bool:
    """Say whether two meta-gradients with this relative error are the same."""
    return error < _WITHIN


def alternate(work: Work, peer: peers.Peer, seconds: float) -> tuple[float, float]:
    """Return the median milliseconds of metarun and of a peer, taking turns for about `seconds`."""
    times: tuple[list[float], list[float]] = ([], [])
    _once(work, peers.metarun)
    _once(work, peer)
    began = time.perf_counter()
    while len(times[0]) < _FEWEST or (time.perf_counter() - began < seconds and len(times[0]) < _MOST):
        times[0].append(_once(work, peers.metarun))
        times[1].append(_once(work, peer))
    return median(times[0]), median(times[1])


def _once(work: Work, side: peers.Peer) -> float:
    """Return the milliseconds of one meta-gradient; a peer has the threads that torch starts with."""
    device = work.batch.support.x.device
    torch.set_num_threads(THREADS)
    work.learner.zero_grad(set_to_none=True)
    _finish(device)
    began = time.perf_counter()
    side(work)
    _finish(device)
    return 1e3 * (time.perf_counter() - began)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(case: str, side: str, device: str) -> int | None:
    """Return what one meta-gradient adds to a fresh process's memory at its peak; None where unknown."""
    command = [sys.executable, "-m", "metarun.bench.measure", case, side, device]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak: int | None = json.loads(done.stdout.splitlines()[-1])
    return peak


def _peak_of_this_process(case: str, side: str, device_name: str) -> int | None:
    device = torch.device(device_name)
    work = make_work(case, device)
    run: Callable[[Work], None] = peers.metarun if side == "metarun" else peers.peers(work)[side]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run(work)
        return torch.cuda.max_memory_allocated(device) - before
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")  # Linux: forget the peak so far
    before = _kibibytes(status, "VmRSS")
    run(work)
    return 1024 * (_kibibytes(status, "VmHWM") - before)


def _kibibytes(status: Path, key: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    print(json.dumps(_peak_of_this_process(*sys.argv[1:])))
