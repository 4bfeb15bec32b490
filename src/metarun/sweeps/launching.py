"""Handing the jobs of a sweep to one of Hydra's launchers."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
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
from metarun.runs.directory import Run, resume_command
from metarun.runs.holding import InUseError, held
from metarun.sweeps.directory import Job, Sweep
from metarun.sweeps.job import OutOfStep, mark_this_process
from metarun.sweeps.launchers import RAY, check_installed, start_ray
from metarun.sweeps.stopping import stopping
from metarun.sweeps.table import Outcome, as_groups, table, write
from metarun.system.files import write_text

log = logging.getLogger("metarun")

# After a launcher has given up, its other jobs may take so long to end.
_SECONDS_TO_END = 600


class Launching:
    """Launches jobs, each in its own directory whatever has been skipped before it.

    Args:
        hydra_context: Hydra's.
        task_function: what a job does.
        config: Hydra's and the jobs' common config.

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
        # By number, unless somebody wants other names; then they do not depend on what is skipped.
        raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self.numbered = isinstance(raw, dict) and raw["subdir"] == "${hydra.job.num}"

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """Return the job with this number, and where its run is.

        Raises:
            ConfigError: that is not in a folder of its own inside the sweep's.
        """
        subdir = str(number)
        if not self.numbered:
            subdir = str(self._config_of(number, overrides).hydra.sweep.subdir)
        inside = os.path.normpath(subdir)
        if Path(inside).is_absolute() or Path(inside).parts[:1] in ((), ("..",)):
            raise ConfigError(
                f"hydra.sweep.subdir: the folder of job {number} would be {subdir}, not one inside that of "
                f"the sweep: type hydra.sweep.subdir=… without / at its start and without .."
            )
        own = cache(lambda: self._compose(number, overrides))  # it is asked for whenever somebody looks
        return Job(number, tuple(overrides), self.directory / inside, own)

    def _config_of(self, number: int, overrides: Sequence[str]) -> DictConfig:
        """Return a job's config, and Hydra's own for it."""
        config = self.loader.load_sweep_config(self._config, list(overrides))
        with open_dict(config):
            config.hydra.job.num = number
        return config

    def _compose(self, number: int, overrides: Sequence[str]) -> dict[str, Any]:
        """Return a job's config as plain values.

        Raises:
            ConfigError: its overrides do not make a config any more.
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
        """Run jobs; what came of them is in their directories.

        Where a launcher gives up because the process of one job died, the others are launched again, as long
        as that brings some of them to their end.

        Args:
            jobs: in the order of their numbers.
            more: overrides of all of them.

        Raises:
            Interrupted: a signal came.
        """
        if "submitit_folder" in self._config.hydra.launcher:
            log.info("the jobs' output is in %s", Path(self._config.hydra.launcher.submitit_folder).parent)
        left = list(jobs)
        while left and not self._launch(left, more):
            self._wait_for_those_that_run(left)
            rest = [job for job in left if job.status in ("stopped", "missing")]
            if len(rest) == len(left):
                break
            left = rest

    def _launch(self, jobs: Sequence[Job], more: Sequence[str]) -> bool:
        """Run jobs, and say whether the launcher has come to its end."""
        overrides = [
            [
                *job.overrides,
                *more,
                # Absolute, since a process on another machine may start elsewhere.
                f"hydra.sweep.dir={quoted(self.directory.absolute())}",
                # Whatever has been skipped before it, a job has its own folder.
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
            except (
                Exception
            ) as error:  # of a process that died, for instance: all else is in the jobs' folders
                if isinstance(error, MetarunError) or not self._parallel:
                    raise
                log.error("the launcher gave up: %s: %s", type(error).__name__, " ".join(str(error).split()))
                write_text(self.directory / "launcher-error.txt", "".join(traceback.format_exception(error)))
                return False
        for job, each in zip(jobs, returns, strict=True):
            if each.status is JobStatus.FAILED:  # before our own code could write it down
                raised = what_was_raised(each)
                Run(job.directory).failed(raised)
                log.error("job %d failed: %s", job.number, " ".join(str(raised).split()))
        return True

    @staticmethod
    def _wait_for_those_that_run(jobs: Sequence[Job]) -> None:
        """Wait until no job is held by a process that its launcher no longer waits for."""
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
        """Hold the sweep's directory for this process, and let a signal say how to go on.

        Raises:
            InUseError: another process holds it.
            Interrupted: a signal came.
        """
        with held(self.directory), stopping(self.directory, parallel=False):
            OmegaConf.save(self._config, self.directory / "multirun.yaml")
            yield Sweep(self.directory)

    def finish(
        self, rows: Sequence[Sequence[Outcome]], more: Mapping[str, Any] | None = None, title: str = ""
    ) -> None:
        """Write and print the table; raise where jobs are not finished, with how to go on.

        Args:
            rows: jobs that belong into one row of the table, each.
            more: for results.json.
            title: a line below the table.

        Raises:
            UnfinishedError: jobs have failed, or have stopped and can go on.
        """
        outcomes = [outcome for row in rows for outcome in row]
        groups = as_groups(rows)
        print(f"\n{table(groups)}\n{title}\nsweep: {self.directory}", flush=True)
        write(self.directory, groups, more)
        again = f"to go on: {resume_command(self.directory)}"
        failed = [each for each in outcomes if each.status == "failed"]
        stopped = [each for each in outcomes if each.status in ("stopped", "missing")]
        if failed:
            numbers = " ".join(str(each.job.number) for each in failed)
            message = (
                f"{len(failed)} of {len(outcomes)} jobs failed ({numbers}), see error.txt in their folders"
            )
            raise UnfinishedError(f"{message}; {again}", MetarunError.exit_status)
        if stopped:
            message = f"{len(stopped)} of {len(outcomes)} jobs are not finished"
            raise UnfinishedError(f"{message}; {again}", OutOfTimeError.exit_status)


def as_typed(words: ListConfig) -> list[str]:
    """Return words as they were typed: an interpolation in one is meant for the config it becomes part of."""
    typed = OmegaConf.to_container(words, resolve=False)
    assert isinstance(typed, list)
    return [str(word) for word in typed]
