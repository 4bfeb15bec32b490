"""A run from before src/metarun had floors is resumed, tested again and compared as any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

OLDER = Path(__file__).parents[1] / "data" / "run-before-floors"

Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, typed: Typed) -> Path:
    """Meta-SGD on binary classification, 6 steps: `typed` is in the folder that it lies in."""
    return Path(shutil.copytree(OLDER, tmp_path / "run"))


def curve(path: Path) -> list[list[float]]:
    """Mean and interval of every score after every step."""
    steps = json.loads(path.read_text())["curve"]
    return [[each[name][key] for name in ("loss", "accuracy") for key in ("mean", "ci95")] for each in steps]


def same(one: Path, other: Path) -> Any:
    return curve(one) == [pytest.approx(values, rel=1e-5) for values in curve(other)]


def test_it_is_resumed_to_the_numbers_that_it_would_have_had(run: Path, typed: Typed) -> None:
    status, printed, said = typed("resume", "run", "train.steps=10", "device=cpu")
    assert status == 0, said
    assert same(run / "results.json", OLDER.with_name("run-before-floors.after-10-steps.json"))
    assert "accuracy (%)" in printed
    before, after = ((path / "metrics.jsonl").read_text().splitlines() for path in (OLDER, run))
    assert after[: len(before)] == before
    # Its best learner is of an older step than the last: the checkpoint knew which one that was.
    results = json.loads((run / "results.json").read_text())
    assert results["validation"]["step"] == results["checkpoint_step"]
    assert typed("resume", "run", "train.steps=12", "device=cpu")[0] == 0  # from a checkpoint of this version


def test_it_is_tested_again(run: Path, typed: Typed) -> None:
    status, printed, said = typed("eval", "run", "data.shot=5", "inner.test_steps=3")
    assert status == 0, said
    (kept,) = (run / "evaluations").glob("*.json")
    assert same(kept, OLDER.with_name("run-before-floors.at-5-shots.json"))
    assert "88.50 ± 6.54" in printed


def test_it_is_compared(run: Path, typed: Typed) -> None:
    shutil.copytree(run, "other")
    assert typed("resume", "other", "train.steps=10", "device=cpu")[0] == 0
    status, printed, said = typed("diff", "run", "other")
    assert status == 0, said
    assert "train.steps" in printed
    assert "accuracy (%)" in printed


def test_its_streams_are_followed(run: Path, typed: Typed) -> None:
    status, printed, said = typed("continual", "run", "--tasks", "2", "--streams", "3")
    assert status == 0, said
    assert "accuracy (%)" in printed
