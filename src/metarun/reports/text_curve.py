"""A small curve made of characters, for the end of a run on a terminal."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from metarun.tasks import Measure

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 48


def text_curve(records: Sequence[Mapping[str, Any]], measure: Measure) -> str:
    """Return the validations of a run as a line of blocks between its first and its last score.

    "" where there are fewer than two, or the terminal cannot show blocks.

    Args:
        records: of metrics.jsonl.
        measure: the score that selects the best learner.
    """
    rows = [row for row in records if row["split"] == "validation" and row.get(measure.name) is not None]
    values = [float(row[measure.name]) for row in rows]
    if len(values) < 2 or not _can_show_blocks():
        return ""
    first, last = (_cell(measure, value) for value in (values[0], values[-1]))
    return f"validation {measure.name}: {first} {blocks(values)} {last}"


def blocks(values: Sequence[float], width: int = _WIDTH) -> str:
    """Return at most `width` blocks whose heights are means of neighbouring values; NaN is a gap."""
    count = min(width, len(values))
    parts = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(part) / len(part) for part in parts]
    finite = [mean for mean in means if math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = (high - low) or 1.0
    top = len(_BLOCKS) - 1
    return "".join(
        _BLOCKS[round(top * (mean - low) / span)] if math.isfinite(mean) else " " for mean in means
    )


def _can_show_blocks() -> bool:
    try:
        _BLOCKS.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _cell(measure: Measure, value: float) -> str:
    return f"{100 * value:.1f} %" if measure.percent else f"{value:.4g}"
