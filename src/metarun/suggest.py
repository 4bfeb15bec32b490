"""The likeliest thing somebody meant to type."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """Return `; did you mean …?` with the closest choice, or nothing where none is close."""
    close = get_close_matches(given, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
