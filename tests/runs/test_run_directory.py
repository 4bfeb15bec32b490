"""Checkpoints, metrics and locks of a run's directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from metarun.errors import ConfigError, MetarunError
from metarun.runs.directory import Run
from metarun.runs.resuming import resume_command


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"seed": 3, "text": "φ"}, {"command": "metarun"})


def test_config_and_manifest_come_back(run: Run) -> None:
    assert Run.open(run.directory).config() == {
        "seed": 3,
        "text": "φ",
        "dtype": "float32",
        "seeding": "shared",
    }
    assert json.loads((run.directory / "manifest.json").read_text()) == {"command": "metarun"}


def test_a_directory_with_another_run_is_refused_and_left_alone(run: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"holds a run that differs in seed, text: type another hydra\.run\.dir"
    ):
        Run.create(run.directory, {"dtype": "float32", "seed": 4, "text": "ψ"}, {})
    assert run.config() == {"seed": 3, "text": "φ", "dtype": "float32", "seeding": "shared"}
    Run.create(run.directory, {"dtype": "float32", "seed": 3, "text": "φ"}, {})


@pytest.mark.parametrize("results", ["{", "[]", '{"a": 1}', '{"final": 3, "curve": []}'])
def test_damaged_results_are_named(run: Run, results: str) -> None:
    (run.directory / "results.json").write_text(results)
    with pytest.raises(
        MetarunError, match=r"results\.json (is damaged|does not hold (results|a JSON object))"
    ):
        run.results()


def test_checkpoints_without_a_config_are_no_new_run(run: Run) -> None:
    run.checkpoints.save({"step": 1}, keep=0)
    (run.directory / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=r"holds checkpoints and no config\.yaml"):
        Run.create(run.directory, {"seed": 4}, {})


def test_what_is_to_be_typed_works_for_any_name() -> None:
    assert resume_command(Path("a/b")) == "metarun resume a/b"
    assert resume_command(Path("a b/$c")) == "metarun resume 'a b/$c'"
    assert resume_command(Path("-a")) == "metarun resume ./-a"


def test_a_run_of_an_older_metarun_has_what_was_added_later(run: Run) -> None:
    assert run.changed({"seed": 3, "text": "φ", "dtype": "float32"}) == {}
    now = {"seed": 3, "text": "φ", "dtype": "float32", "seeding": "streams"}
    with pytest.raises(ConfigError, match="differs in seeding"):
        run.changed(now)
    assert run.changed(run.with_own(now)) == {}
    with pytest.raises(ConfigError, match="differs in seeding"):
        run.changed(run.with_own(now, ["seeding=streams"]))


def test_a_key_that_came_later_with_what_was_done_before_is_no_difference(tmp_path: Path) -> None:
    run = Run.create(tmp_path, {"seeding": "streams", "data": {"way": 5}}, {})
    assert run.changed({"seeding": "streams", "data": {"way": 5, "resize": "lanczos"}}) == {}
    with pytest.raises(ConfigError, match=r"differs in data\.resize"):
        run.changed({"seeding": "streams", "data": {"way": 5, "resize": "nearest"}})


def test_what_may_change_is_recorded_once_the_run_goes_on(tmp_path: Path) -> None:
    both = {"dtype": "float32", "seeding": "streams", "device": "cpu"}
    before, after = (both | {"train": {"steps": steps, "meta_batch": 4}} for steps in (5, 9))
    Run.create(tmp_path, before, {"command": "metarun", "host": "a", "started": "1"})
    run = Run.create(tmp_path, after, {"command": "metarun train.steps=9", "host": "a", "started": "2"})
    assert run.config() == before  # nothing is said before it is true
    run.resumed(5)
    assert run.config() == after
    entry = {
        "step": 5,
        "changed": {"train.steps": [5, 9]},
        "command": "metarun train.steps=9",
        "started": "2",
    }
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == {"command": "metarun", "host": "a", "started": "1", "resumed": [entry]}
    with pytest.raises(ConfigError, match=r"differs in train\.meta_batch"):
        Run.create(tmp_path, {**after, "train": {"steps": 9, "meta_batch": 5}}, {})


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match="is not a run"):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"a: [", b"\xff\xfe", b"seed", b"1: 2", b"seed: 2020-01-01"])
def test_a_damaged_config_is_named(run: Run, content: bytes) -> None:
    (run.directory / "config.yaml").write_bytes(content)
    with pytest.raises(MetarunError, match=r"config\.yaml (is damaged|holds no config)"):
        run.config()


def test_a_failure_is_in_the_log_with_where_it_came_from(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.occupied():
        _ = 1 / 0
    text = (run.directory / "metarun.log").read_text()
    assert "ERROR division by zero" in text
    assert "test_run_directory.py" in text
    assert run.error() == "ZeroDivisionError: division by zero"
    assert "test_run_directory.py" in (run.directory / "error.txt").read_text()


def test_metrics_are_cut_back_to_a_position(run: Run) -> None:
    run.metrics.append({"step": 1})
    position = run.metrics.position()
    run.metrics.append({"step": 2})
    run.metrics.append({"step": 3})
    run.metrics.truncate(position)
    run.metrics.append({"step": 2, "again": True})
    records = run.metrics.records()
    assert all(record.pop("time").endswith("+00:00") for record in records)
    assert records == [{"step": 1}, {"step": 2, "again": True}]


def test_metrics_that_somebody_shortened_keep_their_whole_lines(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.metrics.append({"loss": float("nan")})
    whole = run.metrics.position()
    with run.metrics.path.open("a") as file:
        file.write('{"loss": 0.1, "st')
    run.metrics.truncate(10_000)
    assert run.metrics.position() == whole
    assert [record["loss"] for record in run.metrics.records()] == [None]
    assert f"has lost {10_000 - whole - 17} bytes" in caplog.text


def test_a_second_process_is_refused_and_a_crash_frees_the_run(run: Run) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from metarun.runs.directory import Run, resume_command\n"
        "with Run(Path(sys.argv[1])).occupied():\n    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, run.directory], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(MetarunError, match="in use by another process"), run.occupied():
            pass
        other.kill()
        other.wait()
        with run.occupied():
            pass
