"""Running the jobs of a sweep with one of Hydra's launchers."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from metarun.config.composition import (
    COMPOSITION_ERRORS,
    SEARCH_PATH,
    explain,
    own_config_dirs,
    plain,
    quoted,
)
from metarun.config.private import BASIC_LAUNCHER, what_was_raised
from metarun.errors import ConfigError, MetarunError, OutOfTimeError, UnfinishedError
from metarun.reports.progress import SweepProgress
from metarun.runs.directory import Run
from metarun.runs.holding import InUseError, held
from metarun.runs.resuming import resume_command
from metarun.sweeps.directory import Job, Sweep
from metarun.sweeps.job import OutOfStep, mark_this_process
from metarun.sweeps.launchers import RAY, check_installed, start_ray
from metarun.sweeps.stopping import stopping
from metarun.sweeps.table import Outcome, as_groups, table, write
from metarun.system.files import write_text

log = logging.getLogger("metarun")

# The time that running jobs may take to end after their launcher has failed.
_SECONDS_TO_END = 600


class Launching:
    """Launches jobs; the directory of a job does not depend on which other jobs are skipped.

    Args:
        hydra_context: Hydra's.
        task_function: runs a job.
        config: Hydra's own config and the config common to all jobs.

    Attributes:
        directory: of the sweep.

    Raises:
        ConfigError: the launcher cannot be used here.
    """

    def __init__(self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._target = str(config.hydra.launcher._target_)
        check_installed(self._target)
        self._parallel = self._target != BASIC_LAUNCHER
        if self._parallel and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "hydra/launcher: torchrun's processes train one job together, one after another; "
                "leave the launcher out, or torchrun"
            )
        self.loader: ConfigLoader = hydra_context.config_loader
        self._config = config
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self.directory = Path(str(config.hydra.sweep.dir))
        self.config_dirs = own_config_dirs(config.hydra)
        self.words = [
            word for word in as_typed(config.hydra.overrides.hydra) if not word.startswith(f"{SEARCH_PATH}=")
        ]
        # Folders are named by the job's number, unless hydra.sweep.subdir was set.
        raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self.numbered = isinstance(raw, dict) and raw["subdir"] == "${hydra.job.num}"

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """Return the job with this number, with its directory.

        Raises:
            ConfigError: the directory would not be inside the sweep's.
        """
        subdir = str(number)
        if not self.numbered:
            subdir = str(self._config_of(number, overrides).hydra.sweep.subdir)
        folder = os.path.normpath(subdir)
        if Path(folder).is_absolute() or Path(folder).parts[:1] in ((), ("..",)):
            raise ConfigError(
                f"hydra.sweep.subdir: the folder of job {number} would be {subdir}, not one inside that of "
                f"the sweep: type hydra.sweep.subdir=… without / at its start and without .."
            )
        compose = cache(
            lambda: self._compose(number, overrides)
        )  # it is called whenever the job's status is read
        return Job(number, tuple(overrides), self.directory / folder, compose)

    def _config_of(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """Return a job's config together with Hydra's own."""
        config = self.loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.num = number
        return config

    def _compose(self, number: int, overrides: Sequence[str]) -> dict[str, Any]:
        """Return a job's config as plain values.

        Raises:
            ConfigError: its overrides no longer make a valid config.
        """
        try:
            config = self._config_of(number, overrides)
        except COMPOSITION_ERRORS as error:
            raise explain(error, overrides, self.config_dirs) from error
        holder = HydraConfig.instance()
        before = holder.cfg
        try:
            holder.set_config(config)  # what ${hydra:…} in the config refers to
            with open_dict(config):
                del config["hydra"]
            return plain(config)
        finally:
            holder.cfg = before

    def launch(self, jobs: Sequence[Job], more: Sequence[str] = ()) -> None:
        """Run jobs; their results are in their directories.

        If a launcher fails because the process of one job died, the other jobs are launched again, as long as
        each launch ends some of them.

        Args:
            jobs: in the order of their numbers.
            more: additional overrides of all jobs.

        Raises:
            Interrupted: a signal was received.
        """
        if "submitit_folder" in self._config.hydra.launcher:
            log.info("the jobs' output is in %s", Path(self._config.hydra.launcher.submitit_folder).parent)
        left = list(jobs)
        while left and not self._launch(left, more):
            self._wait_for_running(left)
            unfinished = [job for job in left if job.status in ("stopped", "missing")]
            if len(unfinished) == len(left):
                break
            left = unfinished

    def _launch(self, jobs: Sequence[Job], more: Sequence[str]) -> bool:
        """Run jobs, and return whether the launcher returned without an error."""
        overrides = [
            [
                *job.overrides,
                *more,
                # Absolute, since a process on another machine may start in another folder.
                f"hydra.sweep.dir={quoted(self.directory.absolute())}",
                # Explicit, since Hydra would number the folders by the jobs of this launch.
                f"hydra.sweep.subdir={quoted(job.directory.relative_to(self.directory))}",
            ]
            for job in jobs
        ]
        mark_this_process()
        if self._target.startswith(RAY):
            start_ray(OmegaConf.to_container(self._config.hydra.launcher.ray.init, resolve=True))
        with stopping(self.directory, parallel=self._parallel):
            try:
                returns = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
            except OutOfStep as stop:
                raise stop.error from stop
            except Exception as error:  # such as a process that died; jobs' own errors are in error.txt
                if isinstance(error, MetarunError) or not self._parallel:
                    raise
                log.error("the launcher gave up: %s: %s", type(error).__name__, " ".join(str(error).split()))
                write_text(self.directory / "launcher-error.txt", "".join(traceback.format_exception(error)))
                return False
        for job, job_return in zip(jobs, returns, strict=True):
            if job_return.status is JobStatus.FAILED:  # it failed before run_job could write the error
                job_error = what_was_raised(job_return)
                Run(job.directory).failed(job_error)
                log.error("job %d failed: %s", job.number, " ".join(str(job_error).split()))
        return True

    @staticmethod
    def _wait_for_running(jobs: Sequence[Job]) -> None:
        """Wait until no job is locked by a process that outlives its launcher, at most _SECONDS_TO_END."""
        deadline = time.monotonic() + _SECONDS_TO_END
        for job in jobs:
            while job.directory.is_dir() and time.monotonic() < deadline:
                try:
                    with held(job.directory):
                        break
                except InUseError:
                    time.sleep(1)

    @contextmanager
    def held(self) -> Iterator[Sweep]:
        """Lock the sweep's directory for this process; after a signal the message says how to go on.

        Raises:
            InUseError: another process has locked it.
            Interrupted: a signal was received.
        """
        with held(self.directory), stopping(self.directory, parallel=False):
            OmegaConf.save(self._config, self.directory / "multirun.yaml")
            yield Sweep(self.directory)

    @contextmanager
    def progress(
        self, total: int, folders: Callable[[], Iterable[Path]], pruned: Callable[[], int] = lambda: 0
    ) -> Iterator[None]:
        """Show a bar over the jobs of the sweep.

        Args:
            total: number of jobs.
            folders: returns those of the jobs.
            pruned: returns how many trials have ended without a result.
        """

        def count() -> tuple[int, int]:
            known = list(folders())
            done, failed = (
                sum((folder / name).exists() for folder in known) for name in ("results.json", "error.txt")
            )
            return min(total, done + failed + pruned()), failed

        with SweepProgress(total, count):
            yield

    def finish(
        self, rows: Sequence[Sequence[Outcome]], more: Mapping[str, Any] | None = None, title: str = ""
    ) -> None:
        """Write and print the table; raise if jobs are not finished, with the command to go on.

        Args:
            rows: for each row of the table, its jobs.
            more: additional content of results.json.
            title: a line below the table.

        Raises:
            UnfinishedError: jobs have failed, or have stopped and can be resumed.
        """
        outcomes = [outcome for row in rows for outcome in row]
        groups = as_groups(rows)
        print(f"\n{table(groups)}\n{title}\nsweep: {self.directory}", flush=True)
        write(self.directory, groups, more)
        hint = f"to go on: {resume_command(self.directory)}"
        failed = [outcome for outcome in outcomes if outcome.status == "failed"]
        stopped = [outcome for outcome in outcomes if outcome.status in ("stopped", "missing")]
        if failed:
            numbers = " ".join(str(outcome.job.number) for outcome in failed)
            message = (
                f"{len(failed)} of {len(outcomes)} jobs failed ({numbers}), see error.txt in their folders"
            )
            raise UnfinishedError(f"{message}; {hint}", MetarunError.exit_status)
        if stopped:
            message = f"{len(stopped)} of {len(outcomes)} jobs are not finished"
            raise UnfinishedError(f"{message}; {hint}", OutOfTimeError.exit_status)


def as_typed(words: ListConfig) -> list[str]:
    """Return words as typed, with interpolations unresolved: they refer to the config of each job."""
    typed = OmegaConf.to_container(words, resolve=False)
    assert isinstance(typed, list)
    return [str(word) for word in typed]
