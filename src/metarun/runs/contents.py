"""Checks of the content of a run's files, which may be damaged or from a stranger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_plain(value: Any) -> bool:
    """Return whether a value could be written as JSON."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, list):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, str | int | float)


def are_results(content: Mapping[str, Any]) -> bool:
    """Return whether this has the scores of a finished run: the final ones and those of each step."""
    final, curve = content.get("final"), content.get("curve")
    if not (isinstance(final, dict) and isinstance(curve, list) and curve):
        return False
    if not all(isinstance(point, dict) and isinstance(point.get("step", 0), int) for point in curve):
        return False
    entries = [
        final,
        *({k: v for k, v in point.items() if k != "step"} for point in curve),
    ]
    measures = content.get("measures", [])
    if not (isinstance(measures, list) and all(_is_measure(measure) for measure in measures)):
        return False
    if measures and {measure["name"] for measure in measures} != set(final):
        return False
    numbers = int | float | None
    return all(
        isinstance(score, dict) and all(isinstance(score.get(key), numbers) for key in ("mean", "ci95"))
        for scores in entries
        for score in scores.values()
    )


def _is_measure(value: Any) -> bool:
    """Return whether this describes a measure: its name, direction and unit, and whether it selects."""
    return (
        isinstance(value, dict)
        and value.keys() - {"selects"} == {"name", "higher_is_better", "percent"}
        and isinstance(value["name"], str)
        and all(isinstance(flag, bool) for key, flag in value.items() if key != "name")
    )
