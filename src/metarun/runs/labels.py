"""What tells runs apart, in few words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

SEED_KEYS = ("seed", "data.seed")
"""Keys in which repetitions of a run differ."""

Labels = list[dict[str, str]]

_ORDER = ("experiment", "algo", "model", "data", "inner", "metagradient", "outer")


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a config by dotted key."""
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values


def labels(configs: Sequence[Mapping[str, Any]], choices: Sequence[Mapping[str, str]]) -> Labels:
    """Return for each run the few keys and values that tell it from the others; seeds are left out.

    An option stands for the keys that it sets: of two runs that differ in `algo` and, by that, in
    `inner.lr`, the label is `algo`.

    Args:
        configs: of the runs, flat; see `flat`.
        choices: the option of each group, where they are known.
    """
    runs = range(len(configs))
    label: Labels = [{} for _ in runs]

    def add(key: str, value_of: Callable[[int], str]) -> None:
        """Label the runs with a key, unless their labels already tell its value."""
        told: dict[tuple[str, ...], set[str]] = {}
        for run in runs:
            told.setdefault(tuple(label[run].values()), set()).add(value_of(run))
        if any(len(values) > 1 for values in told.values()):
            for run in runs:
                label[run][key] = value_of(run)

    for group in _ORDER:
        if all(group in chosen for chosen in choices):
            add(group, lambda run, group=group: choices[run][group])  # type: ignore[misc]
    for key in sorted({key for config in configs for key in config} - set(SEED_KEYS)):
        add(key, lambda run, key=key: _short(configs[run].get(key, "–")))  # type: ignore[misc]
    return label


def _short(value: object) -> str:
    """Return a value in a few characters: a label tells runs apart, and the config has all digits."""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def in_words(label: Mapping[str, str]) -> str:
    """Return a label as typed on the command line."""
    return " ".join(f"{key}={value}" for key, value in label.items())
