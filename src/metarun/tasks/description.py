"""What a source of real data tells about it: for a run's manifest, and for its results."""

from __future__ import annotations

from typing import Any

from metarun.tasks.types import Split, TaskSource


def described(source: TaskSource) -> dict[str, Any]:
    """Return what a prepared source says of its data, as plain values; {} if it says nothing."""
    describe = getattr(source, "described", None)
    return {} if describe is None else dict(describe())


def class_names(source: TaskSource, split: Split) -> dict[str, list[str]]:
    """Return the names of a split's classes as `{"classes": …}`, for results; {} if they have no names."""
    names = getattr(source, "names", None)
    return {} if names is None else {"classes": list(names(split))}


def problems_of(label: str, source: TaskSource) -> list[str]:
    """Return what is wrong with a source's files, each with a label before it; [] if it has none."""
    verify = getattr(source, "verify", None)
    return [] if verify is None else [f"{label}{problem}" for problem in verify()]


def elsewhere(source: TaskSource) -> dict[str, Any]:
    """Return where the test tasks of a source are from, as `{"test_data": …}`, for results; {}: its own."""
    said = getattr(source, "elsewhere", None)
    return {} if said is None else {"test_data": said()}
