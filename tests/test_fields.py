"""Values that are typed in words."""

from __future__ import annotations

import pytest

from metarun.fields import seconds


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90s", 90),
        ("1h30m", 5400),
        ("1d12h", 129_600),
        ("1.5h", 5400),
        ("1:30:00", 5400),
        ("02:00", 120),
        ("2-12:00:00", 216_000),
        ("1-12:00", 129_600),
    ],
)
def test_a_duration(typed: str | float, expected: float) -> None:
    assert seconds(typed) == expected


@pytest.mark.parametrize("typed", ["", "h", "1x", "1:2:3", "abc", "1h 30m", "0s", 0, "-1s", "1:30:00:00"])
def test_no_duration(typed: str | float) -> None:
    with pytest.raises(ValueError, match="should be"):
        seconds(typed)
