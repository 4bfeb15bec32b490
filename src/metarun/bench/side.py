"""One side of a race, alone in its process: `python -m metarun.bench.side SIDE DEVICE OVERRIDE …`.

It writes a line when it is ready. Each line that it reads then is a turn: it computes meta-gradients for at
least a twentieth of a second, and at least one. It answers with the milliseconds of each, and with the growth
of its peak memory since the work was loaded. It ends when its standard input is closed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import IO

import torch

from metarun.bench import sides
from metarun.bench.memory import PeakMemory
from metarun.bench.work import make_work

# The least seconds of a turn. Short steps follow one another, as in a training; a single one would find the
# caches filled by another process.
_TURN = 0.05


def main(name: str, device_name: str, *overrides: str) -> None:
    """Take turns until standard input ends."""
    answers = _own_stdout()
    if "OMP_NUM_THREADS" in os.environ:
        os.environ["NPROC"] = str(torch.get_num_threads())  # the only such variable that XLA reads
    device = torch.device(device_name)
    work = make_work(overrides, device)
    peak = PeakMemory(device)
    side = sides.start(name, work)
    print(json.dumps({"ready": name}), file=answers)
    for _ in sys.stdin:
        _finish(device)
        began = time.perf_counter()
        count = 0
        while count == 0 or time.perf_counter() - began < _TURN:
            work.learner.zero_grad(set_to_none=True)
            side.compute()
            count += 1
        _finish(device)
        seconds = time.perf_counter() - began
        print(json.dumps({"ms": 1e3 * seconds / count, "bytes": peak.bytes}), file=answers)


def _own_stdout() -> IO[str]:
    """Return standard output for the answers only, and send what libraries print to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
