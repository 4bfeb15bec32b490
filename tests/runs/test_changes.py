"""What differs between two configs, and what may."""

from __future__ import annotations

import pytest

from metarun.runs.changes import changes, differing_keys, may_change


def test_differing_keys_are_dotted_and_those_of_either_side() -> None:
    one, other = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 3}
    assert differing_keys(one, other) == ["a.c", "d", "e"]
    assert changes(["a.c", "e"], one, other) == {"a.c": (2, 4), "e": (None, 3)}


@pytest.mark.parametrize(
    ("key", "may"),
    [
        ("train.steps", True),
        ("train.log_every", True),
        ("train.meta_batch", False),
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
