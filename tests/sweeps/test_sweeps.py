"""Sweeps as real processes: failing, killed, stopped, resumed, with every launcher."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from processes import METARUN, assert_same_run, lines_of, started, untimed, wait_until

from metarun.config.options import CONF

FEW = [
    "device=cpu",
    "train.steps=12",
    "train.meta_batch=4",
    "engine.chunk=4",  # nothing has to be measured
    "train.log_every=5",
    "train.validate_every=4",
    "train.validation_tasks=8",
    "train.checkpoint_every=3",
    "train.test_tasks=8",
]


def results(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "results.json").read_text())
    return found


@pytest.mark.slow
def test_eight_jobs_with_one_failing_and_one_killed_are_resumed_to_completion(
    metarun, tmp_path: Path, cache: Path
) -> None:
    # Job 3 fails: where its checkpoints would be, there is a file. The sweep is killed in job 5.
    words = ["-m", "algo=maml,metasgd", "seed=0,1,2,3", *FEW, "train.steps=240", "train.log_every=1"]
    sweep = tmp_path / "sweep"
    (sweep / "3").mkdir(parents=True)
    (sweep / "3" / "checkpoints").write_text("in the way")
    command = [*METARUN, *words, "hydra.sweep.dir=sweep"]
    with started(command, tmp_path, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(sweep / "5" / "metrics.jsonl") > 60, process)
        process.kill()
    assert not (sweep / "table.csv").exists()
    assert re.match(
        "(File exists|Not a directory): .*sweep/3/checkpoints", (sweep / "3" / "error.txt").read_text()
    )
    finished = {n: (sweep / n / "results.json").stat().st_mtime_ns for n in "0124"}
    assert not (sweep / "5" / "results.json").exists()

    again = metarun("resume", "sweep")
    assert again.returncode == 1
    assert "4 of 8 jobs are finished already" in again.stderr
    last_line = (
        "metarun: 1 of 8 jobs failed (3), see error.txt in their folders; to go on: metarun resume sweep"
    )
    assert again.stderr.splitlines()[-1] == last_line
    assert "metasgd  " in again.stdout
    assert {n: (sweep / n / "results.json").stat().st_mtime_ns for n in "0124"} == finished

    (sweep / "3" / "checkpoints").unlink()
    completed = metarun("resume", "sweep")
    assert completed.returncode == 0, completed.stderr
    assert [job["status"] for job in results(sweep)["jobs"]] == ["finished"] * 8
    assert [job["seed"] for job in results(sweep)["jobs"]] == ["0", "1", "2", "3"] * 2
    assert [group["jobs"] for group in results(sweep)["groups"]] == [4, 4]
    manifest = json.loads((sweep / "5" / "manifest.json").read_text())
    assert len(manifest["resumed"]) == 1
    assert not (sweep / "3" / "error.txt").exists()

    whole = metarun("algo=metasgd", "seed=1", *words[3:], "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    assert_same_run(sweep / "5", tmp_path / "whole")


def test_a_sweep_typed_again_with_more_values_keeps_its_numbers(metarun, tmp_path: Path) -> None:
    assert metarun("-m", "seed=0,1", *FEW, "hydra.sweep.dir=sweep").returncode == 0
    more = metarun("-m", "seed=2,0,1", *FEW, "hydra.sweep.dir=sweep")
    assert more.returncode == 0, more.stderr
    assert "2 of 3 jobs are finished already" in more.stderr
    assert [job["seed"] for job in results(tmp_path / "sweep")["jobs"]] == ["0", "1", "2"]
    longer = metarun("resume", "sweep", "train.steps=16")
    assert longer.returncode == 0, longer.stderr
    assert {untimed(tmp_path / "sweep" / n)[-1]["step"] for n in "012"} == {16}
    for word, message in {
        "inner.lr=3": "inner.lr cannot change on resume",
        "seed=1,2": "one value at a time",
    }.items():
        refused = metarun("resume", "sweep", word)
        assert refused.returncode == 2
        assert message in refused.stderr


def test_jobs_with_names_of_their_own_are_resumed_too(metarun, tmp_path: Path) -> None:
    named = ["hydra.sweep.dir=sweep", r"hydra.sweep.subdir=seed_${seed}"]
    assert metarun("-m", "seed=4,5", *FEW, *named).returncode == 0
    assert {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()} == {"seed_4", "seed_5"}
    shutil.rmtree(tmp_path / "sweep" / "seed_4")
    again = metarun("resume", "sweep")
    assert again.returncode == 0, again.stderr
    assert "1 of 2 jobs are finished already" in again.stderr


def test_a_second_sweep_in_the_same_place_and_a_damaged_one_are_refused(
    metarun, tmp_path: Path, cache: Path
) -> None:
    command = [*METARUN, "-m", "seed=0,1", *FEW, "train.steps=100000", "hydra.sweep.dir=sweep"]
    output = tmp_path / "output"
    with started(command, tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until((tmp_path / "sweep" / "0" / "metrics.jsonl").exists, process)
        refused = metarun("resume", "sweep")
        assert refused.returncode == 1
        assert "sweep is in use by another process" in refused.stderr
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    last_line = "metarun: the sweep was stopped; to go on: metarun resume sweep"
    assert output.read_text().splitlines()[-1] == last_line
    assert not (tmp_path / "sweep" / "1").exists()
    (tmp_path / "sweep" / "sweep.json").write_text("{")
    damaged = metarun("resume", "sweep")
    assert damaged.returncode == 1
    assert "sweep.json is damaged" in damaged.stderr


def test_jobs_that_run_out_of_time_are_resumed(metarun, tmp_path: Path) -> None:
    first = metarun("-m", "seed=0,1", *FEW, "train.max_time=0.0001", "hydra.sweep.dir=sweep")
    assert first.returncode == 124
    assert first.stderr.splitlines()[-1].startswith("metarun: 2 of 2 jobs are not finished; to go on: ")
    assert "0/2, stopped: 0 1" in first.stdout
    again = metarun("resume", "sweep", "train.max_time=null")
    assert again.returncode == 0, again.stderr


def test_a_launcher_that_is_not_installed_is_named_with_what_to_install(metarun, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # What a machine without the packages answers when it is asked for them.
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *more: (\n"
        "    None if 'joblib_launcher' in name or name == 'optuna' else find(name, *more)\n)\n"
    )
    for words, extra in ((["hydra/launcher=joblib"], "joblib"), (["hydra/sweeper=optuna"], "optuna")):
        done = metarun("-m", "seed=0,1", *words, *FEW, PYTHONPATH=str(hidden))
        assert done.returncode == 2, done.stderr
        assert f"type pip install 'metarun[{extra}]'" in done.stderr
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "outputs").exists()


def test_concurrent_jobs_prepare_a_dataset_once(tmp_path: Path, omniglot_root: Path) -> None:
    few = [*METARUN, "data=omniglot", "model.filters=4", *FEW, "train.steps=1", "train.test_tasks=1"]
    with ExitStack() as together:
        jobs = [
            together.enter_context(
                started([*few, f"seed={n}", f"hydra.run.dir={n}"], tmp_path, METARUN_CACHE="fresh")
            )
            for n in range(3)
        ]
        assert [job.wait(timeout=200) for job in jobs] == [0, 0, 0]
    logs = [path.read_text() for path in tmp_path.glob("*/metarun.log")]
    assert len(logs) == 3
    assert sum("reading" in log for log in logs) == 1


def test_a_users_own_folder_and_odd_names_are_remembered(metarun, tmp_path: Path) -> None:
    (tmp_path / "own" / "data").mkdir(parents=True)
    text = (CONF / "data" / "sinusoid.yaml").read_text()
    (tmp_path / "own" / "data" / "waves.yaml").write_text(text)
    named = ["--config-dir", "own", r"hydra.sweep.dir='it\'s a sweep'"]
    assert metarun("-m", "data=waves", "seed=0,1", *FEW, *named).returncode == 0
    shutil.rmtree(tmp_path / "it's a sweep" / "1")
    again = metarun("resume", "it's a sweep", "train.steps=14", "hydra/launcher=basic")
    assert again.returncode == 0, again.stderr
    assert {untimed(tmp_path / "it's a sweep" / n)[-1]["step"] for n in "01"} == {14}
    # What was added is remembered; a value that cannot be right is not.
    assert metarun("resume", "it's a sweep", "train.steps=x").returncode == 2
    (tmp_path / "it's a sweep" / "1" / "results.json").write_text("{")
    damaged = metarun("resume", "it's a sweep")
    assert damaged.returncode == 1
    assert damaged.stderr.splitlines()[-1].endswith("to go on: metarun resume 'it'\"'\"'s a sweep'")


LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["hydra.launcher.ray.init.num_cpus=2"],
}


def needs(launcher: str) -> None:
    if importlib.util.find_spec(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher") is None:
        pytest.skip(f"hydra-{launcher}-launcher is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_runs_jobs_beside_a_failing_one_is_stopped_and_goes_on(
    metarun, tmp_path: Path, cache: Path, launcher: str
) -> None:
    # One sweep for all that is asked of a launcher: Ray alone takes 15 seconds to start.
    needs(launcher)
    long = [*FEW, "train.steps=600", "train.checkpoint_every=0"]
    words = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "hydra.sweep.dir=sweep"]
    sweep, output = tmp_path / "sweep", tmp_path / "output"
    command = [*METARUN, "-m", "inner.lr=1e30,0.01,0.02", *long, *words]
    with started(command, tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: all(lines_of(sweep / n / "metrics.jsonl") > 3 for n in "12"), process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    said = output.read_text()
    assert "the sweep was stopped; to go on: metarun resume sweep" in said
    for number in "12":
        assert "stopped after step" in (sweep / number / "metarun.log").read_text()
    done = metarun("resume", "sweep")
    assert done.returncode == 1, done.stderr
    assert "1 of 3 jobs failed (0)" in done.stderr
    assert "deprecated" not in said + done.stderr
    assert [job["status"] for job in results(sweep)["jobs"]] == ["failed", "finished", "finished"]
    assert "is nan at step 1" in (sweep / "0" / "error.txt").read_text()
    alone = metarun("inner.lr=0.02", *long, "hydra.run.dir=alone")
    assert alone.returncode == 0
    assert_same_run(sweep / "2", tmp_path / "alone")


@pytest.mark.slow
def test_a_job_that_slurm_would_end_is_queued_again_and_ends_with_the_same_bits(
    metarun, tmp_path: Path, cache: Path
) -> None:
    needs("submitit_local")
    long = [*FEW, "train.steps=800", "train.checkpoint_every=0"]
    command = [*METARUN, "-m", "seed=1", *long, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep"]
    run = tmp_path / "sweep" / "0"
    with started(command, tmp_path, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(run / "metrics.jsonl") > 3, process)
        jobs = subprocess.run(
            ["pgrep", "-f", f"submitit.core._submit {tmp_path}"], capture_output=True, text=True, check=True
        )
        os.kill(int(jobs.stdout), signal.SIGUSR2)  # what submitit has Slurm send
        assert process.wait(timeout=120) == 0
    (resumed,) = json.loads((run / "manifest.json").read_text())["resumed"]
    assert 0 < resumed["step"] < 800  # with train.checkpoint_every=0 only a stop can have saved it
    alone = metarun("seed=1", *long, "hydra.run.dir=alone")
    assert alone.returncode == 0
    assert_same_run(run, tmp_path / "alone")


@pytest.mark.slow
def test_the_jobs_of_a_killed_sweep_do_not_outlive_it(tmp_path: Path, cache: Path) -> None:
    needs("joblib")
    sweep = tmp_path / "sweep"
    long = [*FEW, "train.steps=100000", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    with started(
        [*METARUN, "-m", "seed=0,1", *long, "hydra.sweep.dir=sweep"], tmp_path, METARUN_CACHE=str(cache)
    ) as process:
        wait_until(lambda: all(lines_of(sweep / n / "metrics.jsonl") > 3 for n in "01"), process)
        process.kill()
        process.wait()
        for number in "01":
            log = sweep / number / "metarun.log"
            wait_until(lambda log=log: "stopped after step" in log.read_text(), seconds=20)


@pytest.mark.slow
def test_a_worker_that_dies_leaves_the_rest_to_be_resumed(metarun, tmp_path: Path) -> None:
    needs("joblib")
    (tmp_path / "mine.py").write_text(DEADLY)
    (tmp_path / "deadly").touch()
    words = ["model._target_=mine.Deadly", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = metarun("-m", "seed=0,1", *FEW, *words, "hydra.sweep.dir=sweep")
    assert done.returncode == 124
    assert "the launcher gave up: TerminatedWorkerError" in done.stderr
    assert done.stderr.splitlines()[-1].endswith("jobs are not finished; to go on: metarun resume sweep")
    (tmp_path / "deadly").unlink()
    assert metarun("resume", "sweep").returncode == 0


# Kills the process that makes it, unless that is the one that metarun was typed in.
DEADLY = """
import os
from metarun.models import MLP

class Deadly(MLP):
    def __init__(self, **more):
        super().__init__(**more)
        own = str(os.getpid())
        if os.path.exists("deadly") and os.environ.get("METARUN_SWEEP_PROCESS", own) != own:
            os.kill(os.getpid(), 9)
"""
