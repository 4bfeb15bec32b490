"""One run over several processes: torchrun for real, and its processes forked, against one process."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import METARUN, environment, lines_of, started, untimed, wait_until

from metarun.system.ranks import Ranks

FEW = [
    "device=cpu",
    "train.steps=12",
    "train.meta_batch=7",
    "train.log_every=5",
    "train.validate_every=6",
    "train.validation_tasks=8",
    "train.checkpoint_every=4",
    "train.test_tasks=10",
]


def torchrun(processes: int) -> list[str]:
    arguments = ["--standalone", f"--nproc-per-node={processes}", "-m", "metarun"]
    return [sys.executable, "-m", "torch.distributed.run", *arguments]


def run(command: list[str], cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """Run torchrun, which starts a new Python for every process."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=environment(METARUN_CACHE=str(cache)),
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def run_forked(processes: int, words: list[str], cwd: Path, cache: Path) -> tuple[list[int], str]:
    """Run metarun in several forked processes, with what torchrun tells its own; return how they ended, and
    what they said.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    output = cwd / "output"
    output.unlink(missing_ok=True)
    told = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    told |= {"TORCHELASTIC_RUN_ID": f"forked-{port}", "METARUN_CACHE": str(cache)}
    with ExitStack() as together:
        ranks = [
            together.enter_context(
                started([*METARUN, *words], cwd, output, RANK=str(n), LOCAL_RANK=str(n), **told)
            )
            for n in range(processes)
        ]
        return [rank.wait(timeout=100) for rank in ranks], output.read_text()


def state(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(directory / "checkpoints" / "last.pt", weights_only=True)
    return found


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    a, b = state(one)["learner"], state(other)["learner"]
    for name, p in a.items():
        torch.testing.assert_close(p, b[name], rtol=tolerance, atol=tolerance)
    found, expected = untimed(one), untimed(other)
    assert [(r["split"], r["step"]) for r in found] == [(r["split"], r["step"]) for r in expected]
    for a, b in zip(found, expected, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=tolerance)


@pytest.mark.parametrize("tasks", [1, 5, 7, 25])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_every_task_belongs_to_one_process_and_the_shares_are_even(tasks: int, count: int) -> None:
    shares = [range(tasks)[Ranks(number, count).share(tasks)] for number in range(count)]
    assert [task for share in shares for task in share] == list(range(tasks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        ["algo=metasgd"],
        ["algo=reptile", "data=omniglot", "model.filters=4"],
        ["algo=l2l", "inner.steps=4", "metagradient.window=2"],
        # Running statistics follow the tasks of all processes. (The gradients of biases before a batch
        # norm are zero but for rounding, which Adam would make large.)
        ["algo=protonet", "data=binary_classification", "model.norm=batch", "model.hidden=[8]", "outer=sgd"],
        # Padding differs from process to process, and latent variables are drawn with each task's key.
        [
            "algo=anp",
            "data=gp",
            "data.shot=[2,5]",
            "algo.width=8",
            "algo.heads=2",
            "algo.samples=2",
            "outer=sgd",
        ],
        ["algo=simpleshot", "data=omniglot", "model.filters=2", "data.train_batch=6", "outer=sgd"],
    ],
)
def test_several_processes_are_one(
    tmp_path: Path, cache: Path, choice: list[str], request: pytest.FixtureRequest
) -> None:
    if "data=omniglot" in choice:
        request.getfixturevalue("omniglot_root")
    words = [*choice, *FEW, "dtype=float64", "engine.chunk=2"]
    statuses, said = run_forked(1, [*words, "hydra.run.dir=one"], tmp_path, cache)
    assert statuses == [0], said
    for processes in (2, 3):
        name = f"of{processes}"
        statuses, said = run_forked(processes, [*words, f"hydra.run.dir={name}"], tmp_path, cache)
        assert statuses == [0] * processes, said
        assert_close(tmp_path / name, tmp_path / "one", 1e-10)
        assert said.count("run: ") == 2  # one of them speaks, at its start and at its end


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, cache: Path) -> None:
    statuses, said = run_forked(1, [*FEW, "hydra.run.dir=one"], tmp_path, cache)
    assert statuses == [0], said
    first = run([*torchrun(2), *FEW, "train.max_time=1e-9", "hydra.run.dir=run"], tmp_path, cache)
    assert first.returncode == 1  # torchrun's own for any failure
    assert "train.max_time is over: stopped after step 1 of 12" in first.stderr
    second = run([*torchrun(3), "resume", "run", "train.max_time=null"], tmp_path, cache)
    assert second.returncode == 0, second.stderr
    assert "resuming at step 1 of 12" in second.stderr
    assert_close(tmp_path / "run", tmp_path / "one", 1e-6)


@pytest.mark.slow
def test_a_sweep_of_several_processes_goes_on_after_a_job_that_diverges(tmp_path: Path, cache: Path) -> None:
    sweep = ["-m", "inner.lr=1e30,0.01", *FEW, "hydra.sweep.dir=sweep"]
    done = run([*torchrun(2), *sweep], tmp_path, cache)
    assert done.returncode == 1
    assert "1 of 2 jobs failed (0)" in done.stderr
    assert (tmp_path / "sweep" / "1" / "results.json").exists()
    statuses, said = run_forked(2, ["algo=mamll"], tmp_path, cache)
    assert statuses[0] == 2, said
    assert said.count("metarun: algo=mamll: there is no such option") == 1


def test_a_test_by_several_processes_is_refused(tmp_path: Path, cache: Path) -> None:
    statuses, said = run_forked(2, ["eval", "."], tmp_path, cache)
    assert statuses[0] == 2, said
    assert "metarun: a test runs in one process: type the command without torchrun" in said


def test_fewer_tasks_than_processes_are_refused(tmp_path: Path, cache: Path) -> None:
    words = [*FEW, "train.meta_batch=1", "hydra.run.dir=run"]
    statuses, said = run_forked(2, words, tmp_path, cache)
    assert statuses[0] == 2, said
    assert "train.meta_batch=1: 2 processes need a task each" in said


def ranks_of(parent: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(parent)], capture_output=True, text=True, check=False)
    return [int(each) for each in found.stdout.split()]


LONG = [
    "device=cpu",
    "train.steps=100000",
    "train.log_every=1",
    "train.validate_every=0",
    "hydra.run.dir=run",
]


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_dies_ends_the_others_within_seconds(tmp_path: Path, cache: Path, number: int) -> None:
    output, metrics = tmp_path / "output", tmp_path / "run" / "metrics.jsonl"
    with started([*torchrun(2), *LONG], tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(metrics) > 5, process)
        ranks = ranks_of(process.pid)
        assert len(ranks) == 2
        os.kill(ranks[number], signal.SIGKILL)
        began = time.monotonic()
        assert process.wait(timeout=60) == 1
        assert time.monotonic() - began < 20
    text = output.read_text()
    assert re.search(r"^metarun: another process of this run is gone \(.*\)", text, re.M), text


@pytest.mark.slow
def test_a_stop_reaches_all_processes_at_the_same_step(tmp_path: Path, cache: Path) -> None:
    output, metrics = tmp_path / "output", tmp_path / "run" / "metrics.jsonl"
    with started([*torchrun(2), *LONG], tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(metrics) > 5, process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    said = re.search(r"^metarun: stopped after step (\d+) of 100000; to go on:", output.read_text(), re.M)
    assert said, output.read_text()
    assert state(tmp_path / "run")["step"] == int(said[1])


@pytest.mark.slow
def test_what_only_the_first_process_meets_ends_a_sweep_without_a_wait(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "checkpoints").write_text("in the way")
    words = ["-m", "seed=0,1", *FEW, "hydra.sweep.dir=sweep"]
    statuses, said = run_forked(2, words, tmp_path, cache)
    assert statuses[0] == 1
    assert statuses[1] != 0
    assert "sweep/0/checkpoints" in said
    (tmp_path / "sweep" / "0" / "checkpoints").unlink()
    statuses, said = run_forked(2, ["resume", "sweep"], tmp_path, cache)
    assert statuses == [0, 0], said
    assert "2/2" in said


@pytest.mark.slow
def test_a_search_gives_up_in_all_processes(tmp_path: Path, cache: Path) -> None:
    pytest.importorskip("optuna")
    search = ["-m", "hydra/sweeper=optuna", "inner.lr=10.0,0.01", "hydra.sweeper.n_trials=4"]
    search += ["hydra.sweeper.study.sampler._target_=optuna.samplers.RandomSampler"]
    search += ["hydra.sweeper.study.pruner.n_startup_trials=1", "train.validate_every=2"]
    statuses, said = run_forked(2, [*search, *FEW, "hydra.sweep.dir=sweep"], tmp_path, cache)
    assert statuses == [0, 0], said
    assert "pruned at step" in said
    assert "pruned: " in said


@pytest.mark.slow
def test_what_is_typed_to_resume_with_reaches_all_processes(tmp_path: Path, cache: Path) -> None:
    statuses, said = run_forked(2, [*FEW, "train.max_time=1e-9", "hydra.run.dir=run"], tmp_path, cache)
    assert statuses[0] == 124, said
    assert "stopped after step 1 of 12" in said
    more = ["engine.chunk=1", "train.steps=14"]
    statuses, said = run_forked(2, ["resume", "run", "train.max_time=null", *more], tmp_path, cache)
    assert statuses == [0, 0], said
    assert state(tmp_path / "run")["engine"]["chunk"] == 1
    assert state(tmp_path / "run")["step"] == 14
