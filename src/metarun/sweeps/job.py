"""One job of a sweep, in whichever process a launcher runs it."""

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

from metarun.config.composition import own_config_dirs, plain, prepare_hydra
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
_SECONDS_BETWEEN_LOOKS = 0.5


def mark_this_process() -> None:
    """Let the jobs know which process the sweep itself is."""
    os.environ[_SWEEP] = str(os.getpid())


def run_job(node: DictConfig) -> Status:
    """Train one job; an error stays in its directory, and the other jobs go on.

    Raises:
        Interrupted: in the sweep's own process, which ends with it.
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
    # submitit has a signal of its own for a job that Slurm is about to end; SIGTERM it wants ignored.
    numbers = (signal.SIGINT, signal.SIGUSR2 if _under_submitit() else signal.SIGTERM)
    try:
        return _run(node, hydra, directory, "", StopSignals(numbers, insist=False, asked=watch))
    except KeyboardInterrupt as stop:
        if isinstance(stop, Interrupted) and stop.signal_number == signal.SIGUSR2:
            # All is saved: now submitit puts the job into the queue again.
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
    except Exception as error:  # whatever it is, it is this job's: the others go on, and the file says where
        if Ranks.join().count > 1 and not isinstance(error, ALIKE):
            raise OutOfStep(error) from error
        if not isinstance(error, InUseError):
            Run(directory).failed(error)
        what = error if isinstance(error, MetarunError) else f"{type(error).__name__}: {error}"
        log.error("%sfailed: %s", name, what)
        return "failed"
    log.info("%s%s", name, describe({key: each.mean for key, each in curve.final.items()}))
    return "finished"


def _launch(node: DictConfig, hydra: Any, directory: Path, signals: StopSignals) -> Curve:
    words = [*(f"--config-dir={folder}" for folder in own_config_dirs(hydra)), *hydra.overrides.task]
    # The folder is the sweep's own: what is there is to go on, whatever train.resume says.
    return launch(
        plain(node), directory, words, resume=True, should_prune=should_prune(hydra), signals=signals
    )


class OutOfStep(BaseException):
    """An error that the other processes of torchrun have not met: the sweep cannot go on with them.

    Not an Exception, since Hydra keeps those and goes on.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _Watch:
    """Says whether the sweep that this job belongs to is to stop, or is gone.

    Signals do not reach the jobs of every launcher: a file in the sweep's directory does.
    """

    def __init__(self, hydra: Any) -> None:
        self._stop_file = stop_file(Path(hydra.sweep.dir))
        # joblib's workers are children of the sweep, and would outlive it.
        is_child = "joblib" in str(hydra.launcher._target_)
        self._parent = int(os.environ[_SWEEP]) if is_child and _SWEEP in os.environ else None
        self._next_look = 0.0

    @property
    def _orphaned(self) -> bool:
        return self._parent is not None and os.getppid() != self._parent

    def __call__(self) -> bool:
        """Look, twice a second at most."""
        now = time.monotonic()
        if now < self._next_look:
            return False
        self._next_look = now + _SECONDS_BETWEEN_LOOKS
        return self._orphaned or self._stop_file.exists()

    def leave_if_orphaned(self) -> None:
        """End the process where nobody waits for it any more; an idle worker would do so after minutes."""
        if self._orphaned:
            os._exit(128 + signal.SIGTERM)


def _under_submitit() -> bool:
    return "SUBMITIT_EXECUTOR" in os.environ


def _settle_in(prefix: str) -> None:
    """Make a launcher's process like the one that metarun was typed in."""
    prepare_hydra()
    to_stderr(prefix)
    without_bars()
    # Between its jobs a worker leaves Ctrl-C, which reaches the whole group, to the sweep.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
