"""A whole training by metarun against the same training by a loop over tasks, as learn2learn has it.

    python benchmarks/whole_training.py algo=metasgd data=omniglot train.steps=500

Both sides start Python, read the data, take the same meta-steps on the same episodes with Adam, and test
nothing but one task; metarun chooses its engine meanwhile, the loop has torch's default number of threads.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import torch

from metarun.bench.torch_peers import per_task_loop
from metarun.bench.work import make_work

NO_TESTS = ["train.validate_every=0", "train.test_tasks=1", "train.log_every=100"]


def by_the_loop(overrides: list[str], steps: int) -> None:
    """Train by the loop."""
    work = make_work(overrides, torch.device("cpu"))
    work.source.prepare(torch.device("cpu"))
    outer = torch.optim.Adam([p for p in work.learner.parameters() if p.requires_grad], lr=0.001)
    for step in range(steps):
        work.batch = work.source.batch("train", step * work.meta_batch, work.meta_batch)
        per_task_loop(work)
        outer.step()
        outer.zero_grad()


def seconds(command: list[str]) -> float:
    """Return how long a command takes in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        return time.perf_counter() - began


def main() -> None:
    """Time both sides, in two turns each."""
    overrides = [*sys.argv[1:], *NO_TESTS]
    ours = [sys.executable, "-m", "metarun", *overrides]
    loop = [sys.executable, __file__, "--loop", *overrides]
    times = [(seconds(ours), seconds(loop)) for _ in range(2)]
    for one, other in times:
        print(f"metarun {one:.1f} s, loop {other:.1f} s, {other / one:.2f} times faster")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        steps = next(word for word in sys.argv[2:] if word.startswith("train.steps="))
        by_the_loop(sys.argv[2:], int(steps.partition("=")[2]))
    else:
        main()
