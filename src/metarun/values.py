"""Values that several constructors take: the annotations that a config is checked against."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What 64-bit generators take."""


Count = Annotated[int, Field(ge=1, le=1_000_000)]
"""Of examples or tasks: more than a million at once is a slip of the hand."""


def ordered(interval: tuple[float, float]) -> tuple[float, float]:
    """Return an interval, or raise ValueError where it is empty."""
    if interval[0] > interval[1]:
        raise ValueError("should be [low, high] with low ≤ high")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(ordered)]
"""[low, high]."""
