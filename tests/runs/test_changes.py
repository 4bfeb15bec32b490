"""What differs between two configs, and what may."""

from __future__ import annotations

import pytest

from metarun.runs.changes import differences, kept, may_change


def test_differing_keys_are_dotted_and_those_of_either_side() -> None:
    one, other = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}
    assert differences(one, other) == {"a.c": (2, 4), "d": (3, None), "e": (None, 3)}


def test_what_a_run_keeps_is_what_may_not_change() -> None:
    config = {"seed": 0, "train": {"steps": 5, "meta_batch": 4}, "outer": {"lr": 1, "optimizer": {"a": []}}}
    assert kept(config) == {"seed": 0, "train.meta_batch": 4, "outer.optimizer.a": []}


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ("train.steps", True),
        ("train.log_every", True),
        ("train.meta_batch", False),
        ("train.validation_tasks", False),
        ("device", True),
        ("engine.chunk", True),
        ("outer.lr", True),
        ("outer.optimizer._target_", False),
        ("algo._target_", False),
        ("model.filters", False),
        ("data.way", False),
        ("inner.lr", False),
        ("seed", False),
        ("dtype", False),
    ],
)
def test_a_run_keeps_what_it_trains_and_on_what(key: str, may: bool) -> None:
    assert may_change(key) is may
