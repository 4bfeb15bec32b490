"""Values that several constructors take: the annotations that a config is checked against."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What 64-bit generators take."""


Size = Annotated[int, Field(gt=0, le=1_000_000)]
"""Of a layer, a window, or another dimension: none is larger than a million."""

SizeOrNone = Annotated[int, Field(ge=0, le=1_000_000)]
"""The same, where 0 means none at all."""

Steps = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""Of any loop; 0 means none, or never."""

SomeSteps = Annotated[int, Field(gt=0, le=1_000_000_000)]
"""The same, where there has to be one."""

Threads = Annotated[int, Field(gt=0, le=1024)]
"""More than that no machine starts."""

Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of examples or tasks: more than a million at once is a slip of the hand."""


def ordered(interval: tuple[float, float]) -> tuple[float, float]:
    """Return an interval, or raise ValueError where it is empty."""
    if interval[0] > interval[1]:
        raise ValueError("should be [low, high] with low ≤ high")
    return interval


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_IN_UNITS = re.compile(r"(?:\d+(?:\.\d+)?[dhms])+")
_ON_A_CLOCK = re.compile(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?")


def seconds(duration: str | float) -> float:
    """Return the seconds of 90, "90s", "1h30m", "1:30:00", or "2-12:00:00" (days first, as Slurm has it).

    Two numbers with a colon are minutes and seconds; after days, hours and minutes (Slurm's reading).

    Raises:
        ValueError: it is none of these, or nothing.
    """
    if isinstance(duration, str):
        clock = _ON_A_CLOCK.fullmatch(duration)
        if clock:
            days, first, second, third = clock.groups()
            hours, minutes, rest = (first, second, third or 0) if third or days else (0, first, second)
            found = float(int(days or 0) * 86_400 + int(hours) * 3_600 + int(minutes) * 60 + int(rest))
        elif _IN_UNITS.fullmatch(duration):
            parts = re.findall(r"([\d.]+)([dhms])", duration)
            found = sum(float(number) * _UNITS[unit] for number, unit in parts)
        else:
            raise ValueError("should be a time such as 90s, 1h30m, 1:30:00 or 2-12:00:00")
    else:
        found = float(duration)
    if found <= 0:
        raise ValueError("should be more than no time at all")
    return found


Duration = Annotated[PositiveFloat | str, AfterValidator(seconds)]
"""A time in seconds, or as `seconds` reads it."""


Interval = Annotated[tuple[float, float], AfterValidator(ordered)]
"""[low, high]."""
