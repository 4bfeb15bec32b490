"""What people read about a dataset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from metarun.tasks import SPLITS, TaskSource, targets_of
from metarun.tasks.description import described


def about(source: TaskSource) -> dict[str, Any]:
    """Return what is known of a source without reading its images."""
    lines: dict[str, Any] = {"inputs": list(source.input_shape), "targets": targets_of(source)}
    classes, images = getattr(source, "classes", None), getattr(source, "images", None)
    if callable(classes):
        lines["classes"] = _by_split({split: classes(split) for split in SPLITS})
    if callable(images):
        lines["images"] = _by_split({split: images(split) for split in SPLITS})
    return {**lines, **getattr(source, "facts", dict)()}


def found_in(source: TaskSource) -> dict[str, Any]:
    """Return what a prepared source found in its files."""
    found = described(source)
    lines: dict[str, Any] = {}
    if "left_out" in found:
        lines["left out"] = ", ".join(f"{n} {why}" for why, n in found["left_out"].items()) or "nothing"
    if found.get("small_classes"):
        lines["too few images in"] = found["small_classes"]
    return lines


def _by_split(numbers: Mapping[str, int]) -> str:
    each = ", ".join(f"{split} {number:,}" for split, number in numbers.items())
    return f"{sum(numbers.values()):,} ({each})"


def in_lines(content: Mapping[str, Any]) -> str:
    """Return a line for each entry, with its name to the left; a list has a line for each item."""
    width = max(map(len, content)) + 2
    lines = []
    for name, value in content.items():
        values = value if isinstance(value, list) and value and isinstance(value[0], str) else [value]
        lines += [f"{name if i == 0 else '':<{width}}{text}" for i, text in enumerate(values)]
    return "\n".join(line.encode("utf-8", "backslashreplace").decode() for line in lines)
