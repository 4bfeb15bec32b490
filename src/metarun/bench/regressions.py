"""Whether metarun has become slower than in rows that were kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metarun.bench.rows import Row
from metarun.errors import ConfigError

BAND = 0.25
"""Ratios of two races on a free machine mostly differ by less than this fraction."""

# Races under other conditions say nothing about one another.
_SAME = ("case", "peer", "tasks", "steps", "device", "threads", "processor")


class Change(NamedTuple):
    """How many times faster than a peer metarun is now, and was then."""

    case: str
    peer: str
    now: float
    then: float

    def is_slower(self, band: float) -> bool:
        """Return whether the ratio is smaller by more than this fraction."""
        return self.now < (1 - band) * self.then


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file of `metarun bench --json`.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--against {path}: expected a file of metarun bench --json ({error})") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"--against {path}: expected a file of metarun bench --json")
    return rows


def changes(rows: Sequence[Row], kept: Sequence[Row]) -> list[Change]:
    """Return how races have changed, of those that were kept under the same conditions."""
    known = {_conditions(row): row["ratio"] for row in kept if "ratio" in row}
    return [
        Change(row["case"], row["peer"], row["ratio"], known[_conditions(row)])
        for row in rows
        if "ratio" in row and _conditions(row) in known
    ]


def _conditions(row: Row) -> tuple[object, ...]:
    return tuple(row.get(key) for key in _SAME)
