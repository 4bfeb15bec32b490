"""Checkpoints, metrics and locks of a run's directory."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarun import storage
from metarun.errors import ConfigError, MetarunError
from metarun.runs.directory import Run, differing_keys


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", {"seed": 3, "text": "φ"}, {"command": "metarun"})


def test_config_and_manifest_come_back(run: Run) -> None:
    assert Run.open(run.directory).config() == {"seed": 3, "text": "φ"}
    assert json.loads((run.directory / "manifest.json").read_text()) == {"command": "metarun"}


def test_a_directory_with_another_run_is_refused_and_left_alone(run: Run) -> None:
    with pytest.raises(
        ConfigError, match=r"holds a run that differs in seed, text: type another hydra\.run\.dir"
    ):
        Run.create(run.directory, {"seed": 4, "text": "ψ"}, {})
    assert run.config() == {"seed": 3, "text": "φ"}
    Run.create(run.directory, {"seed": 3, "text": "φ"}, {})
    assert differing_keys({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}) == [
        "a.c",
        "d",
        "e",
    ]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MetarunError, match="is not a run"):
        Run.open(tmp_path)


def test_a_checkpoint_comes_back_and_holds_tensors_and_plain_values_only(run: Run) -> None:
    state = {"step": 7, "learner": {"w": torch.randn(3)}, "best": None}
    assert run.load("last") is None
    run.save("last", state)
    loaded = run.load("last")
    assert loaded is not None
    assert loaded["step"] == 7
    assert torch.equal(loaded["learner"]["w"], state["learner"]["w"])
    torch.load(run.directory / "checkpoints" / "last.pt", weights_only=True)


def test_a_kill_while_writing_leaves_the_checkpoint_before(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save("last", {"step": 1})

    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    for moment in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(*((storage.os, "fsync") if moment == "fsync" else (storage.Path, "replace")), die)
            with pytest.raises(KeyboardInterrupt):
                run.save("last", {"step": 2})
        assert run.load("last") == {"format": 1, "step": 1}
    assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["last.pt"]


@pytest.mark.parametrize("damage", ["empty", "cut", "flipped", "foreign"])
def test_a_damaged_checkpoint_is_named(run: Run, damage: str) -> None:
    run.save("last", {"step": 1, "learner": {"w": torch.randn(100)}})
    path = run.directory / "checkpoints" / "last.pt"
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "cut": content[:300], "flipped": b"\0" * 64 + content[64:], "foreign": b"hello"}[
            damage
        ]
    )
    with pytest.raises(MetarunError, match=r"last\.pt (is damaged|holds)"):
        run.load("last")


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("content", [b"", b"[]", b"a: [", b"\xff\xfe", b"seed"])
def test_a_damaged_config_is_named(run: Run, content: bytes) -> None:
    (run.directory / "config.yaml").write_bytes(content)
    with pytest.raises(MetarunError, match=r"config\.yaml (is damaged|holds no config)"):
        run.config()


def test_what_a_killed_writer_left_is_cleared_away(run: Run) -> None:
    run.save("last", {"step": 1})
    (run.directory / "checkpoints" / ".last.pt-abc").write_bytes(b"half")
    with run.occupied():
        assert [path.name for path in (run.directory / "checkpoints").iterdir()] == ["last.pt"]


def test_a_failure_is_in_the_log_with_where_it_came_from(run: Run) -> None:
    with pytest.raises(ZeroDivisionError), run.occupied():
        _ = 1 / 0
    text = (run.directory / "metarun.log").read_text()
    assert "ERROR division by zero" in text
    assert "test_run_directory.py" in text


def test_a_checkpoint_cannot_run_code(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run.save("last", {"step": 1})
    path = run.directory / "checkpoints" / "last.pt"
    torch.save({"format": 1, "step": Malice()}, path)
    with pytest.raises(MetarunError, match="is damaged, or holds something else"):
        run.load("last")
    path.write_bytes(pickle.dumps(Malice()))
    with pytest.raises(MetarunError, match="is damaged, or holds something else"):
        run.load("last")
    assert not (tmp_path / "harm").exists()


def test_another_format_is_refused_by_number(run: Run) -> None:
    torch.save({"format": 99}, run.directory / "checkpoints.pt")
    (run.directory / "checkpoints").mkdir()
    (run.directory / "checkpoints.pt").rename(run.directory / "checkpoints" / "last.pt")
    with pytest.raises(MetarunError, match="format 99, this metarun reads 1"):
        run.load("last")


def test_metrics_are_cut_back_to_a_position(run: Run) -> None:
    run.metrics.append({"step": 1})
    position = run.metrics.position()
    run.metrics.append({"step": 2})
    run.metrics.append({"step": 3})
    run.metrics.cut(position)
    run.metrics.append({"step": 2, "again": True})
    records = run.metrics.records()
    assert all(record.pop("time").endswith("+00:00") for record in records)
    assert records == [{"step": 1}, {"step": 2, "again": True}]


def test_metrics_that_somebody_shortened_are_left_as_they_are(run: Run) -> None:
    run.metrics.append({"loss": float("nan")})
    run.metrics.cut(10_000)
    assert [record["loss"] for record in run.metrics.records()] == [None]


def test_a_second_process_is_refused_and_a_crash_frees_the_run(run: Run) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from metarun.runs.directory import Run\n"
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
