"""What may change in a run's config between its start and a resume, and what differs between two configs."""

from __future__ import annotations

from collections.abc import Mapping
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

# Which episodes a meta-step has follows from the first; validations are compared with one another.
_FIXED = ("train.meta_batch", "train.validation_tasks")


def may_change(key: str) -> bool:
    """Say whether a run may go on with another value of this key."""
    return key not in _FIXED and any(key == each or key.startswith(f"{each}.") for each in MAY_CHANGE)


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys whose values two configs do not share, with both; None where one has none."""
    different: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            different[f"{prefix}{key}"] = (a, b)
    return different


def kept(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the part of a config that a run keeps for all its life, by dotted key."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            found |= kept(value, f"{prefix}{key}.")
        elif not may_change(f"{prefix}{key}"):
            found[f"{prefix}{key}"] = value
    return found
