"""Where runs and sweeps are below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Place:
    """The directory of a run or of a sweep.

    Attributes:
        path: the directory.
        is_sweep: of which kind it is.
        entries: what is in it, by name.
    """

    path: Path
    is_sweep: bool
    entries: Mapping[str, os.DirEntry[str]]


def places(folder: Path) -> Iterator[Place]:
    """Yield the runs and sweeps below a folder, or the folder itself, in the order of their names.

    A run is where config.yaml and manifest.json are, and nothing below it is looked at; the runs of a sweep
    follow it. Links to folders, and folders that may not be read, are passed over.
    """
    try:
        with os.scandir(folder) as scanned:
            entries = {entry.name: entry for entry in scanned}
    except OSError:
        return
    if {"config.yaml", "manifest.json"} <= entries.keys():
        yield Place(folder, False, entries)
        return
    if "sweep.json" in entries:
        yield Place(folder, True, entries)
    for name in sorted(entries, key=_in_numbers):
        if entries[name].is_dir(follow_symlinks=False):
            yield from places(folder / name)


def _in_numbers(name: str) -> tuple[int, str]:
    """Return a key that sorts jobs 2 and 10 by their numbers."""
    return (int(name), "") if name.isdecimal() and len(name) < 10 else (0, name)


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the directories of runs; see `places`."""
    return (place.path for place in places(folder) if not place.is_sweep)
