"""What may change in a run's config between its start and a resume, and what differs between two configs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

MAY_CHANGE = (
    "device",
    "engine",
    "train",
    "outer.lr",
    "outer.schedule",
    "outer.final_lr",
    "outer.clip_norm",
    "outer.clip_value",
)
"""How long, how watched, how computed, and how fast; a run keeps everything else, above all what it trains
and on what."""

# Which episodes a meta-step has follows from it.
_FIXED = ("train.meta_batch",)


def may_change(key: str) -> bool:
    """Say whether a run may go on with another value of this key."""
    return key not in _FIXED and any(key == each or key.startswith(f"{each}.") for each in MAY_CHANGE)


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys whose values two configs do not share."""
    different = []
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            different.append(f"{prefix}{key}")
    return different


def value_at(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where there is none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def changes(
    keys: Iterable[str], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, tuple[Any, Any]]:
    """Return the old and the new value of each of these dotted keys."""
    return {key: (value_at(before, key), value_at(after, key)) for key in keys}
