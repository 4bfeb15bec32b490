"""One job of a sweep, in the process in which a launcher runs it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from metarun.config.composition import choices_of, own_config_dirs, plain, prepare_hydra
from metarun.errors import Interrupted, MetarunError, OutOfTimeError, PrunedError
from metarun.evaluation.curve import Curve
from metarun.reports.progress import describe, without_bars
from metarun.runs.directory import Run
from metarun.runs.holding import InUseError
from metarun.runs.signals import StopSignals
from metarun.sweeps.directory import Status, stop_file
from metarun.sweeps.pruning import should_prune
from metarun.system.console import to_stderr
from metarun.system.ranks import Ranks
from metarun.training.launch import ALIKE, launch

log = logging.getLogger("metarun")

_SWEEP = "METARUN_SWEEP_PROCESS"
_SECONDS_BETWEEN_CHECKS = 0.5


def mark_this_process() -> None:
    """Tell the jobs the id of the sweep's own process."""
    os.environ[_SWEEP] = str(os.getpid())


def run_job(node: DictConfig) -> Status:
    """Train one job and return its status; an error is written to its directory, and the other jobs go on.

    Raises:
        Interrupted: a signal was received in the sweep's own process, which then ends.
    """
    hydra = HydraConfig.get()
    directory = Path(hydra.runtime.output_dir)
    name = f"job {directory.name}: "
    if os.environ.get(_SWEEP) == str(os.getpid()):
        return _run(node, hydra, directory, name, StopSignals())
    watch = _Watch(hydra)
    _settle_in(name)
    if watch():
        return "stopped"
    # submitit sends SIGUSR2 to a job that Slurm is about to end, and expects SIGTERM to be ignored.
    numbers = (signal.SIGINT, signal.SIGUSR2 if _under_submitit() else signal.SIGTERM)
    try:
        return _run(node, hydra, directory, "", StopSignals(numbers, insist=False, asked=watch))
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted) and stop.signal_number == signal.SIGUSR2:
            # The run is saved: submitit's own handler now requeues the job.
            signal.raise_signal(signal.SIGUSR2)
        watch.leave_if_orphaned()
        return "stopped"


def _run(node: DictConfig, hydra: Any, directory: Path, name: str, signals: StopSignals) -> Status:
    log.info("%s%s", name, " ".join(hydra.overrides.task) or "the defaults")
    try:
        curve = _launch(node, hydra, directory, signals)
    except PrunedError as pruned:
        log.info("%s%s", name, pruned)
        return "pruned"
    except OutOfTimeError as stop:
        log.warning("%s%s", name, stop)
        return "stopped"
    except Exception as error:  # any error concerns this job alone: error.txt has it, and the others go on
        if Ranks.join().count > 1 and not isinstance(error, ALIKE):
            raise OutOfStep(error) from error
        if not isinstance(error, InUseError):
            Run(directory).failed(error)
        message = error if isinstance(error, MetarunError) else f"{type(error).__name__}: {error}"
        log.error("%sfailed: %s", name, message)
        return "failed"
    log.info("%s%s", name, describe({key: estimate.mean for key, estimate in curve.final.items()}))
    return "finished"


def _launch(node: DictConfig, hydra: Any, directory: Path, signals: StopSignals) -> Curve:
    words = [*(f"--config-dir={folder}" for folder in own_config_dirs(hydra)), *hydra.overrides.task]
    # The folder belongs to the sweep, so an existing run in it is resumed, whatever train.resume says.
    return launch(
        plain(node),
        directory,
        words,
        choices=choices_of(hydra),
        resume=True,
        should_prune=should_prune(hydra),
        signals=signals,
    )


class OutOfStep(BaseException):
    """An error that not all processes of torchrun have raised: they cannot go on with the sweep together.

    It is not an Exception, because Hydra catches those and goes on.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Watch:
    """Returns whether the sweep of this job was asked to stop, or its process has ended.

    Signals do not reach the jobs of every launcher, so a file in the sweep's directory asks them to stop.
    """

    def __init__(self, hydra: Any) -> None:
        self._stop_file = stop_file(Path(hydra.sweep.dir))
        # joblib's workers are child processes of the sweep, and would outlive it.
        is_child = "joblib" in str(hydra.launcher._target_)
        self._parent = int(os.environ[_SWEEP]) if is_child and _SWEEP in os.environ else None
        self._next_check = 0.0

    @property
    def _orphaned(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent

    def __call__(self) -> bool:
        """Check, at most twice a second; between two checks return False."""
        now = time.monotonic()
        if now < self._next_check:
            return False
        self._next_check = now + _SECONDS_BETWEEN_CHECKS
        return self._orphaned or self._stop_file.exists()

    def leave_if_orphaned(self) -> None:
        """End the process at once if the sweep's process has ended; an idle worker would take minutes."""
        if self._orphaned:
            os._exit(128 + signal.SIGTERM)


def _under_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ


def _settle_in(prefix: str) -> None:
    """Set up a launcher's process like that of the command line."""
    prepare_hydra()
    to_stderr(prefix)
    without_bars()
    # Ctrl-C reaches the whole process group; between its jobs a worker leaves it to the sweep.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
