"""A grid: every combination of some values is a job; unfinished jobs are run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from metarun.config.overrides import set_key, single_values
from metarun.config.private import all_combinations
from metarun.errors import ConfigError, MetarunError
from metarun.runs.directory import Run
from metarun.sweeps.directory import Job
from metarun.sweeps.distinct import check_distinct
from metarun.sweeps.launching import Launching
from metarun.sweeps.table import Outcome, grouped

log = logging.getLogger("metarun")

MOST_JOBS = 10_000
"""The largest number of jobs of one sweep."""


def combinations(
    loader: ConfigLoader, arguments: Sequence[str], params: Mapping[str, Any]
) -> list[tuple[str, ...]]:
    """Return the overrides of every job, in the order of Hydra's own sweeper.

    Raises:
        HydraException: an argument is not of the form key=value, or is a range to search in.
        ConfigError: there are more than MOST_JOBS jobs.
    """
    words = [*(f"{key}={value}" for key, value in params.items()), *arguments]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(words)
    _check_count(parsed)
    return [tuple(job) for job in all_combinations(parsed)]


def _check_count(parsed: Sequence[Override]) -> None:
    """Raise ConfigError for too many jobs, without making a list of them."""
    jobs = 1
    for override in parsed:
        if override.is_discrete_sweep():
            jobs *= max(1, sum(1 for _ in islice(override.sweep_iterator(), MOST_JOBS + 1)))
        if jobs > MOST_JOBS:
            raise ConfigError(
                f"{override.input_line}: a sweep has at most {MOST_JOBS:,} jobs; type fewer values, or "
                f"hydra/sweeper=optuna to search among them"
            )


def sweep(
    launching: Launching, arguments: Sequence[str], params: Mapping[str, Any], max_batch_size: int | None
) -> None:
    """Run the unfinished jobs, keep their numbers, and print the table.

    Raises:
        InUseError: another process works on this sweep.
        MetarunError: jobs have failed.
        Interrupted: a signal was received.
    """
    with launching.held() as kept:
        wanted = combinations(launching.loader, arguments, params)
        known = kept.jobs if kept.exists() else []
        # The command may be typed again with more values: known jobs keep their numbers.
        known = [*known, *(job for job in wanted if job not in known)]
        jobs = [launching.job(number, overrides) for number, overrides in enumerate(known)]
        check_distinct(jobs)
        kept.begin("grid")
        kept.write(
            words=[*launching.words, *arguments],
            config_dirs=kept.all_config_dirs(launching.config_dirs),
            jobs=known,
        )
        unfinished = [job for job in jobs if not (job.status == "finished" and _ran_with(job, kept.more))]
        if len(unfinished) < len(jobs):
            log.info("%d of %d jobs are finished already", len(jobs) - len(unfinished), len(jobs))
        size = max_batch_size or max(1, len(unfinished))
        with launching.progress(len(jobs), lambda: [job.directory for job in jobs]):
            for first in range(0, len(unfinished), size):
                launching.launch(unfinished[first : first + size], [*kept.more, *_seeding(jobs)])
        launching.finish(grouped([Outcome.read(job) for job in jobs]))


def _seeding(jobs: Sequence[Job]) -> list[str]:
    """Return the override that gives new jobs of an older sweep the seeding of its existing runs."""
    existing = next((seeding for job in jobs if (seeding := _seeding_of(Run(job.directory)))), "streams")
    typed = any(word.startswith("seeding=") for job in jobs for word in job.overrides)
    return [] if typed or existing == "streams" else [f"seeding={existing}"]


def _seeding_of(run: Run) -> str | None:
    """Return the seeding of a run, or None if there is no run or its config is damaged."""
    try:
        return str(run.config()["seeding"]) if run.exists() else None
    except MetarunError:  # the job's row in the table reports it
        return None


def _ran_with(job: Job, more: Sequence[str]) -> bool:
    """Return whether a job was run with all of these overrides."""
    config = Run(job.directory).config()
    for override in single_values(more):
        changed = deepcopy(config)
        set_key(changed, override)
        if changed != config:
            return False
    return True
