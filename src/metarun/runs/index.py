"""The list of runs below a folder, with an index in the user's cache so that thousands are read at once."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metarun.runs.finding import Place, places
from metarun.runs.summary import STAMPED, State, Summary, is_held, summary
from metarun.system.files import cache_directory, write_text

log = logging.getLogger("metarun")

_VERSION = 1  # increased whenever a summary has other fields


@dataclass(frozen=True)
class SweepSummary:
    """A sweep in a line.

    Attributes:
        path: of its directory.
        total: number of jobs.
        jobs: those that have begun.
        is_held: whether its own process is running.
    """

    path: str
    total: int
    jobs: list[Summary] = field(default_factory=list)
    is_held: bool = False

    @property
    def state(self) -> State:
        """`running` while one job is, `finished` when all are; `failed` where a job has failed."""
        states = {job.state for job in self.jobs}
        if self.is_held or "running" in states:
            return "running"
        if len(self.jobs) >= self.total and states <= {"finished"}:
            return "finished"
        return "failed" if states & {"failed", "damaged"} else "interrupted"


@dataclass(frozen=True)
class Listing:
    """What is below a folder.

    Attributes:
        runs: those that are no jobs of a sweep.
        sweeps: with their jobs.
    """

    runs: list[Summary]
    sweeps: list[SweepSummary]

    def __iter__(self) -> Iterator[Summary]:
        """Yield all runs, then the jobs of each sweep."""
        yield from self.runs
        for sweep in self.sweeps:
            yield from sweep.jobs


def listing(folder: Path, show: Callable[[], object] = lambda: None) -> Listing:
    """Return the runs and sweeps below a folder.

    Summaries of runs are kept in the user's cache, and read again where a file of the run has changed.

    Args:
        folder: where to look.
        show: called after each run that is read.
    """
    path = _index_path(folder)
    known = _known(path)
    entries: dict[str, list[Any]] = {}
    runs: list[Summary] = []
    sweeps: list[SweepSummary] = []
    for place in places(folder):
        if place.is_sweep:
            sweeps.append(SweepSummary(str(place.path), _jobs(place), [], is_held(place.path)))
            continue
        name = str(place.path)
        stamp = _stamp(place.entries)
        kept = known.get(name)
        if kept is not None and kept[0] == stamp:
            entries[name] = kept
            found = Summary.of(kept[1])
        else:
            changed = max((each[0] for each in stamp.values()), default=0) / 1e9
            found = summary(place.path, changed)
            entries[name] = [stamp, found.plain()]
            show()
        if found.state != "finished" and is_held(place.path):
            found = replace(found, state="running")
        (sweeps[-1].jobs if sweeps and _is_in(place.path, sweeps[-1]) else runs).append(found)
    if entries != known:
        _keep(path, entries)
    return Listing(runs, sweeps)


def _is_in(path: Path, sweep: SweepSummary) -> bool:
    return path.is_relative_to(sweep.path)


def _stamp(entries: Mapping[str, os.DirEntry[str]]) -> dict[str, list[int]]:
    """Return when the files of a run have changed, in ns since 1970, and their sizes."""
    stamps = {}
    for name in STAMPED:
        if name in entries:
            try:
                stat = entries[name].stat()
            except OSError:  # it is gone
                continue
            stamps[name] = [stat.st_mtime_ns, stat.st_size]
    return stamps


def _jobs(place: Place) -> int:
    try:
        content = json.loads((place.path / "sweep.json").read_text(encoding="utf-8"))
        return len(content["jobs"])
    except (OSError, ValueError, LookupError, TypeError):  # damaged: its jobs are still listed
        return 0


def _index_path(folder: Path) -> Path:
    name = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_directory() / "runs" / f"{name}.json"


def _known(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] == _VERSION:
            known: dict[str, list[Any]] = content["runs"]
            return known
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ):  # missing, damaged, or of another version: made anew
        pass
    return {}


def _keep(path: Path, entries: Mapping[str, list[Any]]) -> None:
    try:
        write_text(path, json.dumps({"version": _VERSION, "runs": entries}))
    except OSError as error:
        log.warning("the index cannot be kept: %s: %s", path, error.strerror or error)
