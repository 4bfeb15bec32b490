"""Handing the jobs of a sweep to one of Hydra's launchers."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from metarun.errors import ConfigError, Interrupted, MetarunError, OutOfTimeError, UnfinishedError
from metarun.runs.directory import Run, held
from metarun.sweeps.directory import Job, Sweep, stop_file
from metarun.sweeps.job import mark_this_process
from metarun.sweeps.table import Outcome, grouped, table, write

log = logging.getLogger("metarun")

EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": "joblib",
    "hydra_plugins.hydra_submitit_launcher": "submitit",
    "hydra_plugins.hydra_ray_launcher": "ray",
}
"""The package that a launcher comes from → the extra of metarun that installs it."""

_RAY = "hydra_plugins.hydra_ray_launcher"
_BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"

# What `metarun resume SWEEP key=value` adds to every job; None where no sweep is being resumed.
resumed_with: list[str] | None = None


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
        _check_installed(self._target)
        self._parallel = self._target != _BASIC
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
        self.words = as_typed(config.hydra.overrides.hydra)
        # By number, unless somebody wants other names; then they do not depend on what is skipped.
        raw = OmegaConf.to_container(config.hydra.sweep, resolve=False)
        self._numbered = isinstance(raw, dict) and raw["subdir"] == "${hydra.job.num}"

    def job(self, number: int, overrides: Sequence[str]) -> Job:
        """Return the job with this number, and where its run is."""
        subdir = str(number)
        if not self._numbered:
            config = self.loader.load_sweep_config(self._config, list(overrides))
            with open_dict(config):
                config.hydra.job.num = number
            subdir = str(config.hydra.sweep.subdir)
        return Job(number, tuple(overrides), self.directory / subdir)

    def launch(self, jobs: Sequence[Job]) -> None:
        """Run jobs; what came of them is in their directories.

        Raises:
            Interrupted: a signal came.
        """
        if not jobs:
            return
        more = resumed_with or []
        # Absolute, since a process on another machine may start elsewhere.
        placed = [f"hydra.sweep.dir='{self.directory.absolute()}'"]
        overrides = [
            [
                *job.overrides,
                *more,
                *placed,
                *([f"hydra.sweep.subdir={job.number}"] if self._numbered else []),
            ]
            for job in jobs
        ]
        mark_this_process()
        if "submitit_folder" in self._config.hydra.launcher:
            log.info("the jobs' output is in %s", Path(self._config.hydra.launcher.submitit_folder).parent)
        if self._target.startswith(_RAY):
            _start_ray(OmegaConf.to_container(self._config.hydra.launcher.ray.init, resolve=True))
        with _stopping(self.directory, parallel=self._parallel):
            try:
                returns = self._launcher.launch(overrides, initial_job_idx=jobs[0].number)
            except Exception as error:  # of a launcher whose process died, for instance: all else is on disk
                if isinstance(error, MetarunError) or not self._parallel:
                    raise
                log.error("the launcher gave up: %s: %s", type(error).__name__, " ".join(str(error).split()))
                return
        for job, each in zip(jobs, returns, strict=True):
            if each.status is JobStatus.FAILED:  # before our own code could write it down
                Run(job.directory).failed(each._return_value)
                log.error("job %d failed: %s", job.number, " ".join(str(each._return_value).split()))

    @contextmanager
    def held(self) -> Iterator[Sweep]:
        """Hold the sweep's directory for this process.

        Raises:
            InUseError: another process holds it.
        """
        with held(self.directory):
            sweep = Sweep(self.directory)
            OmegaConf.save(self._config, self.directory / "multirun.yaml")
            yield sweep

    def finish(
        self, outcomes: Sequence[Outcome], more: Mapping[str, Any] | None = None, title: str = ""
    ) -> None:
        """Write and print the table; raise where jobs are not finished, with how to go on.

        Raises:
            UnfinishedError: jobs have failed, or have stopped and can go on.
        """
        write(self.directory, outcomes, more)
        print(f"\n{table(grouped(outcomes))}\n{title}\nsweep: {self.directory}", flush=True)
        again = f"to go on: metarun resume {self.directory}"
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


def _start_ray(settings: Any) -> None:
    """Start or join a cluster before our handlers are set: Ray puts its own in the place of others.

    It is asked not to write a token into the home directory, and not to report its use.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # else lines of different jobs count as the same
    import ray

    if not ray.is_initialized():
        ray.init(**{key: value for key, value in settings.items() if value is not None})


def _check_installed(target: str) -> None:
    for package, extra in EXTRAS.items():
        if target.startswith(package) and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"hydra/launcher={extra}: its package is not installed; type pip install 'metarun[{extra}]'"
            )


@contextmanager
def _stopping(directory: Path, *, parallel: bool) -> Iterator[None]:
    """Let a signal stop the sweep where it can be continued.

    A job of this process sees to itself. Those of other processes are told by a file, finish their step, and
    the launcher returns; a second signal ends the sweep at once, and what they have done since their last
    checkpoint is done again.

    Raises:
        Interrupted: a signal came.
    """
    message = f"the sweep was stopped; to go on: metarun resume {directory}"
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not parallel or received:
            raise Interrupted(message, number)
        received.append(number)
        stop_file(directory).touch()
        log.warning("stopping: the jobs finish their step (Ctrl-C again: at once)")

    stop_file(directory).unlink(missing_ok=True)
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(message, stop.signal_number) from stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(message, received[0])
