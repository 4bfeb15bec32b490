"""Descriptions of a source's data, for a run's manifest and results."""

from __future__ import annotations

from typing import Any

from metarun.tasks.types import Split, TaskSource


def described(source: TaskSource) -> dict[str, Any]:
    """Return a prepared source's description of its data, as plain values; {} if it has none."""
    describe = getattr(source, "described", None)
    return {} if describe is None else dict(describe())


def class_names(source: TaskSource, split: Split) -> dict[str, list[str]]:
    """Return the names of a split's classes as `{"classes": …}`, for results; {} if they have no names."""
    names = getattr(source, "names", None)
    return {} if names is None else {"classes": list(names(split))}


def problems_of(label: str, source: TaskSource) -> list[str]:
    """Return the problems of a source's files, each prefixed with the label; [] if there are no problems."""
    verify = getattr(source, "verify", None)
    return [] if verify is None else [f"{label}{problem}" for problem in verify()]


def elsewhere(source: TaskSource) -> dict[str, Any]:
    """Return the origin of the test tasks as `{"test_data": …}`, for results; {}: the source itself."""
    said = getattr(source, "elsewhere", None)
    return {} if said is None else {"test_data": said()}
