"""The check that every job of a sweep has its own folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarun.errors import ConfigError
from metarun.sweeps.directory import Job


def check_distinct(jobs: Sequence[Job]) -> None:
    """Raise ConfigError if two jobs would have the same folder, or one's would be inside another's."""
    owners: dict[Path, Job] = {}
    for job in jobs:
        other = owners.setdefault(job.directory, job)
        if other is not job:
            raise ConfigError(
                f"hydra.sweep.subdir: {_named(other, job)} and {_named(job, other)} would share the folder "
                f"{job.directory}: type a hydra.sweep.subdir with every key that differs, or leave it out"
            )
    for job in jobs:
        other = next((owners[parent] for parent in job.directory.parents if parent in owners), job)
        if other is not job:
            raise ConfigError(
                f"hydra.sweep.subdir: the folder of {_named(job, other)} would be inside that of "
                f"{_named(other, job)}, {other.directory}: type another, or leave it out"
            )


def _named(job: Job, other: Job) -> str:
    """Return the number of a job, and the overrides in which it differs from another."""
    return f"job {job.number} ({' '.join(word for word in job.overrides if word not in other.overrides)})"
