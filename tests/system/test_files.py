"""Locks that another process holds, and folders that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import METARUN, lines_of, started, wait_until

from metarun.system.files import lock

HOLD = """
import sys, time
from pathlib import Path
from metarun.system.files import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def held(path: Path, output: Path, seconds: float):
    return started([sys.executable, "-c", HOLD, str(path), str(seconds)], path.parent, output)


def test_who_waits_for_another_process_says_so_and_goes_on(tmp_path: Path, logged: list[str]) -> None:
    path = tmp_path / "made"
    with held(path, tmp_path / "said", 2.5) as process:
        wait_until(lambda: lines_of(tmp_path / "said"), process)
        with lock(path):
            assert process.wait(10) == 0
    assert logged == [
        f"waiting for another process, which makes {path}; if there is none, delete {path}.lock"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_waits_can_be_stopped(tmp_path: Path, omniglot_root: Path, number: signal.Signals) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    words = [
        "data=omniglot",
        f"data.root={omniglot_root}",
        "model.filters=4",
        "train.steps=1",
        "hydra.run.dir=run",
    ]
    with held(cache / "omniglot-28", tmp_path / "said", 60) as holder:
        wait_until(lambda: lines_of(tmp_path / "said"), holder)
        with started([*METARUN, *words], tmp_path, tmp_path / "run.log", METARUN_CACHE=str(cache)) as process:
            wait_until(lambda: "waiting for another process" in (tmp_path / "run.log").read_text(), process)
            began = time.monotonic()
            process.send_signal(number)
            assert process.wait(20) == 128 + number
            assert time.monotonic() - began < 10
    said = (tmp_path / "run.log").read_text().splitlines()
    assert said[-1] == f"metarun: stopped before the next step; to go on: metarun resume {tmp_path / 'run'}"


TINY = ["device=cpu", "train.steps=2", "train.meta_batch=2", "train.validate_every=2"]
TINY += ["train.validation_tasks=2", "train.test_tasks=4"]


def test_a_run_whose_folder_cannot_be_written_can_be_tested(typed) -> None:
    assert typed(*TINY, "hydra.run.dir=run")[0] == 0
    Path("run/evaluations").write_text("in the way")
    for verb, sign in (("eval", "adaptation steps"), ("continual", "task 5"), ("optimizers", "RMSProp")):
        extra = ["--streams", "4"] if verb == "continual" else []
        status, printed, said = typed(verb, "run", *extra)
        assert status == 0, said
        assert sign in printed
        assert "not kept: run/evaluations/" in said
        assert "cannot be written: " in said


def test_a_sweeps_table_is_shown_where_it_cannot_be_written(typed) -> None:
    words = ["-m", "seed=0,1", *TINY, "hydra.sweep.dir=sweep"]
    assert typed(*words)[0] == 0
    Path("sweep/jobs.csv").unlink()
    Path("sweep/jobs.csv").mkdir()
    status, printed, said = typed("resume", "sweep")
    assert status == 1
    assert "2/2" in printed
    assert said.splitlines()[-1].startswith("metarun: Is a directory")
    shutil.rmtree("sweep/jobs.csv")
    assert typed("resume", "sweep")[0] == 0
    assert json.loads(Path("sweep/results.json").read_text())["jobs"]


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/sys").is_dir(), reason="needs a folder nobody can write")
def test_where_nothing_can_be_written_the_line_says_what_to_type(typed) -> None:
    status, _, said = typed(*TINY, "hydra.run.dir=/sys/metarun")
    assert status == 1
    assert said.splitlines()[-1].endswith(
        "/sys/metarun; type hydra.run.dir=FOLDER (for a sweep hydra.sweep.dir=FOLDER) to write somewhere else"
    )
