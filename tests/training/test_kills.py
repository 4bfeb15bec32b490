"""Real runs that are killed, stopped, or out of disk end with the bits of one that never was."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from processes import METARUN, assert_same_run, environment, lines_of, started, wait_until

# Kills of a run, and what it is besides its algorithm: the running statistics of norms come back too.
KILLS = {"maml": 20, "metasgd": 20, "reptile": 20, "protonet": 6}
WORDS = {"protonet": ["data=binary_classification", "model.norm=batch"]}
STEPS = 900
# Checkpoints take half of the time, so half of the kills hit one.
LONG = [
    "device=cpu",
    f"train.steps={STEPS}",
    "train.meta_batch=4",
    "engine.chunk=4",  # nothing has to be measured
    "train.log_every=3",
    "train.validate_every=10",
    "train.validation_tasks=8",
    "train.checkpoint_every=2",
    "train.test_tasks=8",
]


@pytest.fixture
def whole(metarun, cache: Path, algo: str) -> Callable[[int], Path]:
    """Runs of so many steps that nobody has stopped; made once, for all processes of the tests."""

    def run(steps: int) -> Path:
        directory = cache.with_name("whole-runs") / f"{algo}-{steps}"
        directory.parent.mkdir(exist_ok=True)
        with FileLock(f"{directory}.lock"):
            if not (directory / "results.json").exists():
                few = [*LONG, f"train.steps={steps}", "train.checkpoint_every=0"]
                words = [f"algo={algo}", *WORDS.get(algo, [])]
                done = metarun(*words, *few, f"hydra.run.dir={directory}")
                assert done.returncode == 0, done.stderr
        return directory

    return run


@pytest.mark.slow
@pytest.mark.parametrize("algo", KILLS)
def test_kills_at_random_moments_change_no_bit(
    metarun, tmp_path: Path, cache: Path, whole: Callable[[int], Path], algo: str
) -> None:
    moments = random.Random(algo)
    command = [*METARUN, f"algo={algo}", *WORDS.get(algo, []), *LONG, "hydra.run.dir=killed"]
    log, killed = tmp_path / "killed" / "metarun.log", 0
    for _ in range(KILLS[algo]):
        before = lines_of(log)
        with started(command, tmp_path, METARUN_CACHE=str(cache)) as process:
            # It says where it is, and where it resumes; every third is killed between the two.
            said = before + (killed % 3 > 0)
            wait_until(lambda said=said: lines_of(log) > said, process)
            time.sleep(moments.uniform(0, 0.3))
            process.kill()
            killed += process.wait() == -signal.SIGKILL
    assert killed == KILLS[algo]  # it was never through
    assert metarun("resume", "killed").returncode == 0
    assert_same_run(tmp_path / "killed", whole(STEPS))
    resumed = json.loads((tmp_path / "killed" / "manifest.json").read_text())["resumed"]
    # It went on between the kills.
    assert len({entry["step"] for entry in resumed}) > KILLS[algo] // 5


@pytest.mark.parametrize("algo", ["maml", "metasgd", "reptile"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_go_on_and_ends_with_the_same_bits(
    metarun,
    tmp_path: Path,
    cache: Path,
    whole: Callable[[int], Path],
    algo: str,
    number: signal.Signals,
    status: int,
) -> None:
    output, metrics = tmp_path / "output", tmp_path / "stopped" / "metrics.jsonl"
    few = [*LONG, "train.steps=300", "train.checkpoint_every=0"]
    command = [*METARUN, f"algo={algo}", *few, "hydra.run.dir=stopped"]
    with started(command, tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(metrics) > 10, process)
        process.send_signal(number)
        assert process.wait(timeout=60) == status
    last_line = output.read_text().splitlines()[-1]
    said = re.fullmatch(
        r"metarun: stopped after step (\d+) of 300(?:, while validating)?; to go on: metarun (resume .*)",
        last_line,
    )
    assert said, last_line
    assert 20 <= int(said[1]) < 300
    resumed = metarun(*said[2].split())
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "stopped", whole(300))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path, cache: Path) -> None:
    output = tmp_path / "output"
    # A step of many seconds: one task after another, each of which is quick to try out.
    long = ["inner.steps=100", "train.meta_batch=2000", "engine.chunk=1"]
    command = [*METARUN, "device=cpu", *long, "hydra.run.dir=run"]
    with started(command, tmp_path, output, METARUN_CACHE=str(cache)) as process:
        wait_until((tmp_path / "run" / "checkpoints" / "last.pt").exists, process)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
    assert output.read_text().splitlines()[-1] == "metarun: interrupted"


def test_the_same_command_goes_on_unless_it_is_told_not_to(metarun, tmp_path: Path) -> None:
    few = [*LONG, "train.steps=20", "hydra.run.dir=run"]
    out_of_time = metarun(*few, "train.max_time=0.001")
    assert out_of_time.returncode == 124
    assert re.search(
        r"^metarun: train\.max_time is over: stopped after step 1 of 20", out_of_time.stderr, re.M
    )
    refused = metarun(*few, "train.resume=never")
    assert refused.returncode == 2
    assert "train.resume=never: " in refused.stderr
    again = metarun(*few)
    assert again.returncode == 0
    assert "resuming at step 1 of 20" in again.stderr
    finished = metarun(*few)
    assert finished.returncode == 0
    assert "already finished" in finished.stderr
    assert finished.stdout == again.stdout


def test_a_changed_config_is_refused_or_recorded(metarun, tmp_path: Path) -> None:
    assert metarun(*LONG, "train.steps=10", "hydra.run.dir=run").returncode == 0
    refused = metarun("resume", "run", "train.steps=5")
    assert refused.returncode == 2
    assert "train.steps=5: the run has taken 10 steps already; type train.steps=10 or more" in refused.stderr
    assert metarun("resume", "run", "train.steps=20", "train.log_every=7").returncode == 0
    assert "train.steps" in (tmp_path / "run" / "manifest.json").read_text().partition("resumed")[2]
    differing = metarun(*LONG, "train.steps=20", "algo=metasgd", "hydra.run.dir=run")
    assert differing.returncode == 2
    assert "holds a run that differs in inner" in differing.stderr


# What follows needs a small file system of its own: a user namespace, where the system lets us have one.

TINY = """
set -e
mkdir -p tiny && mount -t tmpfs -o size={size}k tmpfs tiny
set +e
{python} -m metarun {words} hydra.run.dir=tiny/run; echo "status $?"
{then}
cp -r tiny/run copy
"""


def in_tiny_file_system(tmp_path: Path, size: int, words: list[str], then: str = "") -> str:
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this system gives no user namespaces")
    python = sys.executable
    script = TINY.format(size=size, python=python, words=" ".join(words), then=then.format(python=python))
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("algo", ["metasgd"])
def test_a_full_disk_is_one_line_and_the_run_goes_on_from_its_last_checkpoint(
    metarun, tmp_path: Path, whole: Callable[[int], Path], algo: str
) -> None:
    # The metrics grow until nothing is left.
    said = in_tiny_file_system(tmp_path, 300, [f"algo={algo}", *LONG])
    assert "status 1" in said
    (error,) = [line for line in said.splitlines() if line.startswith("metarun: ")]
    assert re.fullmatch(
        r"metarun: No space left on device: .*; the last checkpoint is intact\. Once that is fixed, "
        r"type metarun resume .*tiny/run",
        error,
    )
    assert "Traceback" not in said
    assert not (tmp_path / "copy" / "results.json").exists()
    assert metarun("resume", "copy").returncode == 0
    assert_same_run(tmp_path / "copy", whole(STEPS))


def test_a_disk_that_is_full_from_the_start_is_one_line(tmp_path: Path) -> None:
    said = in_tiny_file_system(tmp_path, 4, ["train.steps=5"], "mkdir -p tiny/run")
    assert "status 1" in said
    assert "metarun: No space left on device: " in said
    assert "Traceback" not in said


def test_a_directory_that_turns_read_only_is_one_line(tmp_path: Path) -> None:
    then = "mount -o remount,ro tiny; {python} -m metarun resume tiny/run train.steps=9; echo again $?"
    said = in_tiny_file_system(tmp_path, 1000, [*LONG, "train.steps=5"], then)
    assert "status 0" in said
    assert "again 1" in said
    assert re.search(r"^metarun: Read-only file system: ", said, re.M), said
    assert "Traceback" not in said


def test_a_file_that_may_not_grow_is_named_and_the_checkpoint_before_it_is_whole(
    metarun, tmp_path: Path
) -> None:
    few = [*LONG, "train.steps=200", "train.log_every=1", "model.hidden=[8]", "hydra.run.dir=run"]
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({20_000}, {20_000}))"
    code = f"{limited}; import sys; from metarun.cli.main import main; sys.exit(main({few!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^metarun: File too large: \S*metrics\.jsonl; ", done.stderr, re.M), done.stderr
    assert "Traceback" not in done.stderr
    assert metarun("resume", "run").returncode == 0
    assert metarun(*few[:-1], "hydra.run.dir=whole").returncode == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
