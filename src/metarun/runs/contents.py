"""Whether a run's files hold what they should: they may be damaged, or a stranger's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_plain(value: Any) -> bool:
    """Say whether a value could have come from JSON."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if isinstance(value, list):
        return all(is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float)


def are_results(content: Mapping[str, Any]) -> bool:
    """Say whether this has the scores of a finished run, final and by step."""
    final, curve = content.get("final"), content.get("curve")
    if not (isinstance(final, dict) and isinstance(curve, list) and curve):
        return False
    entries = [
        final,
        *({k: v for k, v in each.items() if k != "step"} for each in curve if isinstance(each, dict)),
    ]
    measures = content.get("measures", [])
    if not (isinstance(measures, list) and all(_is_measure(each) for each in measures)):
        return False
    if measures and {each["name"] for each in measures} != set(final):
        return False
    numbers = int | float | None
    return len(entries) == len(curve) + 1 and all(
        isinstance(score, dict) and all(isinstance(score.get(key), numbers) for key in ("mean", "ci95"))
        for scores in entries
        for score in scores.values()
    )


def _is_measure(value: Any) -> bool:
    """Say whether this says how to read a score."""
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "higher_is_better", "percent"}
        and isinstance(value["name"], str)
        and all(isinstance(value[key], bool) for key in ("higher_is_better", "percent"))
    )
