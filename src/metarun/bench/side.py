"""One side of a race, alone in its process: `python -m metarun.bench.side SIDE DEVICE OVERRIDE …`.

It writes a line when it is ready. Then each line it reads is its turn: it computes one meta-gradient and
answers with the milliseconds and the bytes that this added to the process's memory, of which only those of
the first turn say much: later ones find memory that is kept. It ends when nobody is left to write to it.
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


def main(name: str, device_name: str, *overrides: str) -> None:
    """Take turns until standard input ends."""
    answers = _own_stdout()
    if "OMP_NUM_THREADS" in os.environ:
        os.environ["NPROC"] = str(torch.get_num_threads())  # XLA reads this one alone
    device = torch.device(device_name)
    work = make_work(overrides, device)
    side = sides.start(name, work)
    print(json.dumps({"ready": name}), file=answers)
    for _ in sys.stdin:
        work.learner.zero_grad(set_to_none=True)
        with PeakMemory(device) as peak:
            _finish(device)
            began = time.perf_counter()
            side.compute()
            _finish(device)
            seconds = time.perf_counter() - began
        print(json.dumps({"ms": 1e3 * seconds, "bytes": peak.bytes}), file=answers)


def _own_stdout() -> IO[str]:
    """Return standard output for the answers alone: what a library prints goes to standard error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return answers


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
