"""Launching a run: locks its directory, trains in one or several processes, shows the table."""

from __future__ import annotations

import logging
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metarun.errors import (
    ConfigError,
    DivergedError,
    Interrupted,
    MetarunError,
    OutOfTimeError,
    PrunedError,
    UnfinishedError,
)
from metarun.evaluation.curve import Curve
from metarun.experiment.build import chosen_device
from metarun.experiment.config import Config, read_config
from metarun.reports.table import curve_table
from metarun.reports.text_curve import text_curve
from metarun.runs.directory import Run
from metarun.runs.manifest import manifest
from metarun.runs.resuming import resume_command
from metarun.runs.signals import StopSignals
from metarun.system.ranks import ElsewhereError, LostRankError, Ranks
from metarun.tasks.metrics import selected_by
from metarun.training.loop import ShouldPrune, train

log = logging.getLogger("metarun")


def launch(
    node: Mapping[str, Any],
    directory: Path,
    words: Sequence[str],
    *,
    choices: Mapping[str, str] | None = None,
    resume: bool = False,
    should_prune: ShouldPrune = lambda step, score: False,  # noqa: ARG005
    signals: StopSignals | None = None,
) -> Curve:
    """Train a run to its end, from the start or its last checkpoint; a finished run is left as it is.

    Args:
        node: the composed config, as plain values.
        directory: directory of the run.
        words: the typed words, for the manifest.
        choices: the option of each group, for the manifest; None: they are not known.
        resume: continue an existing run whatever train.resume says.
        should_prune: see `train`.
        signals: see `train`.

    Returns:
        The curve over adaptation steps on the test tasks.

    Raises:
        ConfigError: the config is wrong, or cannot continue the existing run.
        MetarunError: the run is in use, a file cannot be written, or the training failed.
        Interrupted: the run was stopped, and can be resumed.
    """
    run = Run(directory)
    node = run.with_own(node, words)
    config = read_config(node, run.home)
    if run.exists() and config.train.resume == "never" and not resume:
        raise ConfigError(
            f"train.resume=never: {directory} holds a run; type another hydra.run.dir=FOLDER, or "
            f"train.resume=auto"
        )
    changed, results = run.changed(node), run.results()
    if not changed and results:
        log.info("already finished: %s", directory)
        return Curve.from_dict(results)
    ranks = Ranks.join()
    with run.occupied():
        log.info("run: %s", directory)
        run.begin(node, manifest(words, choices or {}, config.seed, chosen_device(config.device)))
        for key, (old, new) in run.changing.items():
            log.info("changed since the run began: %s, from %s to %s", key, old, new)
        ranks.broadcast_from_rank0(lambda: (dict(node), str(directory)))  # to the processes in _follow
        try:
            return train(config, run, ranks, should_prune=should_prune, signals=signals)
        except LostRankError as error:
            raise LostRankError(f"{error}; to go on: {resume_command(directory)}") from error
        except OSError as error:
            if error.filename is None or not Path(error.filename).is_relative_to(directory):
                raise  # not a file of the run
            where = f": {error.filename}"
            kept = "; the last checkpoint is intact" if run.checkpoints.exist() else ""
            again = f"Once that is fixed, type {resume_command(directory)}"
            raise MetarunError(f"{error.strerror or error}{where}{kept}. {again}") from error


def show(curve: Curve, directory: Path) -> None:
    """Print the table and the directory of a finished run; on a terminal also its curve."""
    run = Run.open(directory)
    print(f"\n{curve_table(curve)}\n")
    if sys.stdout.isatty():
        if line := text_curve(run.metrics.records(), selected_by(curve.measures)):
            print(f"{line}\n")
        print(f"to see it: metarun report {shlex.quote(str(directory))}")
    print(f"run: {directory}")
    if run.config()["algo"].get("start") == "fresh":  # a learned optimizer
        print(f"to compare it with tuned ones: metarun optimizers {shlex.quote(str(directory))}")


def together(lead: Callable[[], None]) -> None:
    """Run a command in torchrun's first process; the other processes train the runs that it launches.

    Without torchrun the only process runs the command.
    """
    ranks = Ranks.join()
    if ranks.count == 1:
        lead()
        return
    try:
        if ranks.first:
            _lead(ranks, lead)
        else:
            _follow(ranks)
    except ElsewhereError as error:
        sys.exit(error.exit_status)
    except (*ALIKE, Interrupted, UnfinishedError) as error:
        ranks.part()
        if ranks.first:
            raise
        sys.exit(error.exit_status)  # the first process shows the message
    ranks.part()


def _lead(ranks: Ranks, lead: Callable[[], None]) -> None:
    try:
        lead()
    except (*ALIKE, UnfinishedError, Interrupted):
        ranks.broadcast_from_rank0(lambda: None)
        raise
    ranks.broadcast_from_rank0(lambda: None)


ALIKE = (ConfigError, DivergedError, OutOfTimeError, PrunedError)
"""Errors that all processes of a run raise at the same point: they are still in step afterwards."""


def _follow(ranks: Ranks) -> None:
    """Train the runs that the first process launches, until it sends None.

    Errors that all processes raise are reported by the first process alone.

    Raises:
        LostRankError: another process is gone.
        ElsewhereError: the first process has failed.
    """
    log.setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):  # between two runs the first process handles them
        signal.signal(number, signal.SIG_IGN)
    while job := ranks.broadcast_from_rank0(_nothing):
        node, directory = job
        config: Config = read_config(node)
        try:
            train(config, Run(Path(directory)), ranks)
        except (*ALIKE, Interrupted):
            continue


def _nothing() -> Any:
    raise AssertionError("called in the first process")
