"""Annotated types of config values that several constructors take; a config is checked against them."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed of a 64-bit generator."""


Size = Annotated[int, Field(gt=0, le=1_000_000)]
"""The size of a layer, a window, or another dimension: at most a million."""

Depth = Annotated[int, Field(ge=1, le=100)]
"""The number of layers of a network."""

SizeOrNone = Annotated[int, Field(ge=0, le=1_000_000)]
"""A size, where 0 means none."""

Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""The steps of a loop; 0 means none, or never."""

SomeSteps = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""The steps of a loop: at least one."""

Threads = Annotated[int, Field(gt=0, le=1024)]
"""A number of threads."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""A number of examples or tasks: more than a million at once is a typing error."""


def in_order(interval: tuple[int, int]) -> tuple[int, int]:
    """Return the interval of whole numbers, or raise ValueError if it is empty."""
    if interval[0] > interval[1]:
        raise ValueError("should be [fewest, most] with fewest ≤ most")
    return interval


Counts = Annotated[tuple[Count, Count], AfterValidator(in_order)]
"""[fewest, most]: a number drawn for each task."""


def ordered(interval: tuple[float, float]) -> tuple[float, float]:
    """Return the interval, or raise ValueError if it is empty."""
    if interval[0] > interval[1]:
        raise ValueError("should be [low, high] with low ≤ high")
    return interval


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_IN_UNITS = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_ON_A_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def seconds(duration: str | float) -> float:
    """Return a duration in seconds: of 90, "90s", "1h30m", "1:30:00", or "2-12:00:00" (days first).

    "a:b" means minutes and seconds, but hours and minutes after days, as in Slurm.

    Raises:
        ValueError: the duration has another form, or is not above 0.
    """
    if isinstance(duration, str):
        clock = _ON_A_CLOCK.fullmatch(duration)
        if clock:
            days, first, second, third = clock.groups()
            hours, minutes, rest = (first, second, third or 0) if third or days else (0, first, second)
            total = float(int(days or 0) * 86_400 + int(hours) * 3_600 + int(minutes) * 60 + int(rest))
        elif _IN_UNITS.fullmatch(duration):
            parts = re.findall(r"([\d.]+)([dhms])", duration)
            total = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            raise ValueError("should be a time such as 90s, 1h30m, 1:30:00 or 2-12:00:00")
    else:
        total = float(duration)
    if total <= 0:
        raise ValueError("should be longer than 0 seconds")
    return total


Duration = Annotated[PositiveFloat | str, AfterValidator(seconds)]
"""A time in seconds, or a text that `seconds` can read."""


Interval = Annotated[tuple[float, float], AfterValidator(ordered)]
"""[low, high]."""
