"""Checkpoints: whole or not there, checked, kept, and nothing in them runs."""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun.errors import MetarunError
from metarun.runs.checkpoints import FORMAT, Checkpoints
from metarun.system import files as storage
from metarun.system import tensor_files


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints")


def state(step: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    learner = {"w": torch.randn(100, generator=generator)}
    nothing = {"selection": {}, "outer": {}, "meter": {}, "metrics_bytes": 0}
    return {"step": step, "learner": learner, **nothing}


def names(checkpoints: Checkpoints) -> set[str]:
    return {path.name for path in checkpoints.folder.iterdir()}


def newest_step(checkpoints: Checkpoints) -> int:
    found = checkpoints.newest()
    assert found is not None
    assert torch.equal(found["learner"]["w"], state(found["step"])["learner"]["w"])
    return int(found["step"])


def test_the_last_comes_back_and_torch_reads_it_alone(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest() is None
    checkpoints.save(state(7), keep=2)
    assert newest_step(checkpoints) == 7
    plain = torch.load(checkpoints.folder / "last.pt", weights_only=True)
    assert plain["format"] == FORMAT
    assert zipfile.ZipFile(checkpoints.folder / "last.pt").comment.startswith(b"sha256:")


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_the_last_and_those_before_it_are_kept(checkpoints: Checkpoints, keep: int) -> None:
    checkpoints.save_best({"step": 2, "learner": {}})
    for step in range(0, 100, 10):
        checkpoints.save(state(step), keep)
    checkpoints.save(state(90), keep)  # the same step again takes no one's place
    before = {f"step-{step}.pt" for step in range(90 - 10 * keep, 90, 10)}
    assert names(checkpoints) == {"last.pt", "best.pt", *before}
    assert newest_step(checkpoints) == 90


def test_a_new_process_keeps_those_of_the_one_before(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), keep=2)
    again = Checkpoints(checkpoints.folder)
    assert newest_step(again) == 1
    again.save(state(2), keep=2)
    assert names(again) == {"last.pt", "step-1.pt"}


DAMAGE = {
    "empty": lambda _: b"",
    "cut": lambda content: content[:300],
    "cut at the end": lambda content: content[:-1],
    "zeros": lambda content: b"\0" * 64 + content[64:],
    "foreign": lambda _: b"hello",
    "longer": lambda content: content + b"!",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_one_is_named_and_the_newest_good_one_is_used(
    checkpoints: Checkpoints, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3, 4):
        checkpoints.save(state(step), keep=3)
    for name in ("last.pt", "step-3.pt"):
        path = checkpoints.folder / name
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert newest_step(checkpoints) == 2
    assert [record.args[1] for record in caplog.records if isinstance(record.args, tuple)] == [2, 2]
    assert "last.pt is damaged" in caplog.text
    assert "step-3.pt is damaged" in caplog.text
    checkpoints.newest(take_over=True)
    assert names(checkpoints) == {"last.pt.damaged", "step-3.pt.damaged", "step-2.pt", "step-1.pt"}
    checkpoints.save(state(3), keep=3)
    assert newest_step(checkpoints) == 3


def test_where_none_is_good_the_error_says_what_to_do(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), keep=1)
    checkpoints.save(state(2), keep=1)
    for path in checkpoints.folder.iterdir():
        path.write_bytes(b"hello")
    with pytest.raises(MetarunError, match=r"last\.pt is damaged.*no other checkpoint is good.*from step 0"):
        checkpoints.newest()


def test_those_of_another_run_or_of_another_kind_are_named_and_not_used(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Checkpoints(checkpoints.folder, lambda: "mine")
    mine.save(state(1), keep=3)
    mine.save(state(2), keep=3)
    mine.save(state(3), keep=3)
    other = Checkpoints(tmp_path / "other", lambda: "another")
    other.save(state(9), keep=0)
    (tmp_path / "other" / "last.pt").replace(checkpoints.folder / "last.pt")
    assert newest_step(mine) == 2
    assert "last.pt belongs to a run with another config" in caplog.text
    mine.save_best({"step": 8, "learner": {}})
    (checkpoints.folder / "best.pt").replace(checkpoints.folder / "last.pt")
    assert newest_step(mine) == 2
    assert "last.pt is not a checkpoint of this kind" in caplog.text
    (checkpoints.folder / "last.pt").unlink()
    (checkpoints.folder / "last.pt").mkdir()
    assert newest_step(mine) == 2


def test_where_none_is_good_they_stay_where_they_are(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), keep=1)
    (checkpoints.folder / "last.pt").write_bytes(b"hello")
    for _ in range(2):
        with pytest.raises(MetarunError, match="no other checkpoint is good"):
            checkpoints.newest(take_over=True)
    assert names(checkpoints) == {"last.pt"}


def test_those_of_a_future_that_was_given_up_are_put_aside(checkpoints: Checkpoints) -> None:
    for step in (1, 2, 3):
        checkpoints.save(state(step), keep=3)
    (checkpoints.folder / "step-1.pt").replace(checkpoints.folder / "last.pt")  # restored from a copy
    assert checkpoints.newest(take_over=True) is not None
    assert names(checkpoints) == {"last.pt", "step-2.pt.later"}


def test_what_could_not_be_read_again_is_not_written(checkpoints: Checkpoints) -> None:
    with pytest.raises(MetarunError, match="holds something besides tensors and plain values"):
        checkpoints.save({**state(1), "learner": {"_extra_state": Malice()}}, keep=0)
    assert names(checkpoints) == set()


def test_a_damaged_best_is_named_and_left_out(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    assert checkpoints.best() is None
    assert "best.pt is gone" in caplog.text
    checkpoints.save_best(state(1))
    assert checkpoints.best(step=0) is None
    assert "best.pt is of step 1, the best validation was at step 0" in caplog.text
    found = checkpoints.best()
    assert found is not None
    assert found["step"] == 1
    path = checkpoints.folder / "best.pt"
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoints.best() is None
    assert "best.pt is damaged" in caplog.text


def test_every_flipped_bit_is_found(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save(state(1), keep=0)
    path = checkpoints.folder / "last.pt"
    content = path.read_bytes()
    positions = random.Random(0).sample(range(8 * len(content)), 400)
    # The very end too: the seal itself, and the two bytes that say how long it is.
    positions += range(8 * (len(content) - 73), 8 * len(content))
    for position in positions:
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(MetarunError):
            Checkpoints(checkpoints.folder).newest()


def test_a_flipped_bit_of_the_first_format_that_had_no_seal_never_gets_through_as_an_odd_error(
    checkpoints: Checkpoints,
) -> None:
    checkpoints.folder.mkdir()
    path = checkpoints.folder / "last.pt"
    torch.save({**state(1), "format": 1}, path)
    content = path.read_bytes()
    for position in random.Random(1).sample(range(8 * len(content)), 400):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        try:
            found = Checkpoints(checkpoints.folder).newest()
        except MetarunError:
            continue
        assert found is not None


def test_a_kill_at_any_moment_of_writing_leaves_a_good_one(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save(state(1), keep=2)
    calls = 0

    def dying(function: Any, at: int) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == at:
                raise KeyboardInterrupt
            return function(*arguments, **options)

        return call

    step = 1
    for at in range(1, 20):
        calls = 0
        with monkeypatch.context() as patch:
            patch.setattr(storage.os, "fsync", dying(os.fsync, at))
            patch.setattr(Path, "replace", dying(Path.replace, at))
            patch.setattr(Path, "unlink", dying(Path.unlink, at))
            with contextlib.suppress(KeyboardInterrupt):
                checkpoints.save(state(step + 1), keep=2)
        checkpoints = Checkpoints(checkpoints.folder)  # a new process
        checkpoints.tidy()
        assert newest_step(checkpoints) in (step, step + 1)
        step = newest_step(checkpoints)
        if calls < at:
            break
    assert at > 5
    assert not [name for name in names(checkpoints) if name.startswith(".")]


class Malice:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("harm",)


def test_a_checkpoint_cannot_run_code(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(state(1), keep=0)
    path = checkpoints.folder / "last.pt"
    for content in ({"format": 1, "step": Malice()}, {"format": FORMAT, "step": Malice()}):
        torch.save(content, path)
        with pytest.raises(MetarunError, match="is damaged, or not a file of metarun"):
            checkpoints.newest()
        path.write_bytes(tensor_files._seal(path.read_bytes()))  # a stranger can make the checksum fit
        with pytest.raises(
            MetarunError, match="holds objects that are not loaded, since they could run code"
        ):
            checkpoints.newest()
    path.write_bytes(pickle.dumps(Malice()))
    with pytest.raises(MetarunError, match="is damaged"):
        checkpoints.newest()
    assert not (tmp_path / "harm").exists()


def test_a_newer_format_is_refused_by_number(checkpoints: Checkpoints) -> None:
    tensor_files.write_tensors(checkpoints.folder / "last.pt", {"format": 99, "step": 1})
    with pytest.raises(MetarunError, match=f"format 99, this metarun reads 1 to {FORMAT}: use the version"):
        checkpoints.newest()


def test_the_first_format_is_migrated(checkpoints: Checkpoints) -> None:
    checkpoints.folder.mkdir()
    old = {"format": 1, "step": 3, "outer": {}, "learner": {}, "meter": {}, "metrics_bytes": 9, "best": None}
    torch.save(old, checkpoints.folder / "last.pt")
    found = checkpoints.newest()
    selection = {"best": None, "selection_score": -math.inf, "validations_since_best": 0}
    added = {
        "format": FORMAT,
        "selection": selection,
        "skipped": {"all": 0, "in_a_row": 0},
        "device": "cpu",
    }
    del old["best"]
    assert found == {**old, **added}


def test_the_second_format_is_migrated(checkpoints: Checkpoints) -> None:
    skipped = {"all": 2, "in_a_row": 1}
    same = {"step": 3, "outer": {}, "learner": {}, "meter": {}, "metrics_bytes": 9, "skipped": skipped}
    before = {"best": {"step": 2, "quality": -1.5}, "stale": 4, "quality": -2.0}
    tensor_files.write_tensors(checkpoints.folder / "last.pt", {"format": 2, "run": "", **same, **before})
    selection = {
        "best": {"step": 2, "selection_score": -1.5},
        "selection_score": -2.0,
        "validations_since_best": 4,
    }
    assert checkpoints.newest() == {"format": FORMAT, "run": "", **same, "selection": selection}


def test_what_a_killed_writer_left_is_cleared_away(checkpoints: Checkpoints) -> None:
    checkpoints.save(state(1), keep=0)
    for name in (".next.pt", "..next.pt-abc", ".best.pt-abc"):
        (checkpoints.folder / name).write_bytes(b"half")
    checkpoints.tidy()
    assert names(checkpoints) == {"last.pt"}


def test_the_best_that_a_checkpoint_knows_of_stays_until_the_next(checkpoints: Checkpoints) -> None:
    checkpoints.save_best(state(1))
    checkpoints.save(state(2), keep=0)
    for later in (3, 4):
        checkpoints.save_best(state(later))
    assert names(checkpoints) == {"last.pt", "best.pt", "best-before.pt"}
    found = [checkpoints.best(step) for step in (4, None, 3, 1)]
    assert [each and each["step"] for each in found] == [4, 4, None, 1]
    assert names(checkpoints) == {"last.pt", "best.pt"}  # the one that the run goes on with
    checkpoints.save(state(5), keep=0)
    assert names(checkpoints) == {"last.pt", "best.pt"}
