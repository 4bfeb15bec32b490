"""Where runs are below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def run_directories(folder: Path) -> Iterator[Path]:
    """Yield the directories of runs below a folder, or the folder itself, in the order of their names.

    A run is where config.yaml and manifest.json are; nothing below a run is looked at. Links to folders and
    folders that may not be read are passed over.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    names = {entry.name for entry in found}
    if {"config.yaml", "manifest.json"} <= names:
        yield folder
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from run_directories(folder / entry.name)
