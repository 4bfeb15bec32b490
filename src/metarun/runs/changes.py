"""Which keys of a run's config may change when it is resumed, and which keys differ between two configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAY_CHANGE = (
    "device",
    "engine",
    "logger",
    "train",
    "outer.lr",
    "outer.schedule",
    "outer.final_lr",
    "outer.drop_every",
    "outer.drop_to",
    "outer.clip_norm",
    "outer.clip_value",
)
"""Keys that may change: the run's length and validation, how it is computed, and the outer learning rate and
clipping. A run keeps everything else, above all its learner and its data."""

# The episodes of a meta-step depend on meta_batch; validations are compared with one another.
_FIXED = ("train.meta_batch", "train.validation_tasks")


def may_change(key: str) -> bool:
    """Return whether a run may be resumed with another value of this key."""
    return key not in _FIXED and any(key == prefix or key.startswith(f"{prefix}.") for prefix in MAY_CHANGE)


def differences(
    one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple[Any, Any]]:
    """Return the dotted keys in which two configs differ → both values; None stands for a missing key."""
    different: dict[str, tuple[Any, Any]] = {}
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            different[f"{prefix}{key}"] = (a, b)
    return different


def kept(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a config that may not change on resume, by dotted key."""
    fixed: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            fixed |= kept(value, f"{prefix}{key}.")
        elif not may_change(f"{prefix}{key}"):
            fixed[f"{prefix}{key}"] = value
    return fixed
