"""A run with its directory held, its table shown, and the processes that train it together."""

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
from metarun.runs.directory import Run, resume_command
from metarun.runs.manifest import manifest
from metarun.runs.signals import StopSignals
from metarun.system.ranks import ElsewhereError, LostRankError, Ranks
from metarun.training.loop import ShouldPrune, train

log = logging.getLogger("metarun")


def launch(
    node: Mapping[str, Any],
    directory: Path,
    words: Sequence[str],
    *,
    resume: bool = False,
    should_prune: ShouldPrune = lambda step, score: False,  # noqa: ARG005
    signals: StopSignals | None = None,
) -> Curve:
    """Begin a run, or go on with the one that is there, to its end; one that has ended is left as it is.

    Args:
        node: the composed config, as plain values.
        directory: of the run.
        words: what was typed, for the manifest.
        resume: go on with a run that is there whatever train.resume says.
        should_prune: see `train`.
        signals: see `train`.

    Returns:
        The curve over adaptation steps on the test tasks.

    Raises:
        ConfigError: the config cannot be right, or cannot continue the run that is there.
        MetarunError: the run is in use, a file cannot be written, or the training failed.
        Interrupted: it was stopped, and can be resumed.
    """
    run = Run(directory)
    node = run.with_own(node, words)
    config = read_config(node, run.home)
    if run.exists() and config.train.resume == "never" and not resume:
        raise ConfigError(
            f"train.resume=never: {directory} holds a run; type another hydra.run.dir=FOLDER, or "
            f"train.resume=auto"
        )
    results = run.results()
    if not run.changed(node) and results:
        log.info("finished before: %s", directory)
        return Curve.from_dict(results)
    ranks = Ranks.join()
    with run.occupied():
        log.info("run: %s", directory)
        run.begin(node, manifest(words, config.seed, chosen_device(config.device)))
        for key, (before, now) in run.changing.items():
            log.info("changed since the run began: %s, from %s to %s", key, before, now)
        ranks.broadcast_from_rank0(lambda: (dict(node), str(directory)))  # to those who follow
        try:
            return train(config, run, ranks, should_prune=should_prune, signals=signals)
        except LostRankError as error:
            raise LostRankError(f"{error}; to go on: {resume_command(directory)}") from error
        except OSError as error:
            if error.filename is None or not Path(error.filename).is_relative_to(directory):
                raise  # not the run's own files
            where = f": {error.filename}"
            kept = "; the last checkpoint is whole" if run.checkpoints.exist() else ""
            again = f"When that is mended, type {resume_command(directory)}"
            raise MetarunError(f"{error.strerror or error}{where}{kept}. {again}") from error


def show(curve: Curve, directory: Path) -> None:
    """Print the table of a finished run, and where it is."""
    print(f"\n{curve_table(curve)}\n\nrun: {directory}")
    if Run.open(directory).config()["algo"].get("start") == "fresh":  # a learned optimizer, then
        print(f"to compare it with tuned ones: metarun optimizers {shlex.quote(str(directory))}")


def together(lead: Callable[[], None]) -> None:
    """Do the work of a command in the first process of torchrun's; the others follow what it launches.

    Without torchrun there is one process, which does the work.
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
        sys.exit(error.exit_status)  # the first process says why
    ranks.part()


def _lead(ranks: Ranks, lead: Callable[[], None]) -> None:
    try:
        lead()
    except (*ALIKE, UnfinishedError, Interrupted):
        ranks.broadcast_from_rank0(lambda: None)
        raise
    ranks.broadcast_from_rank0(lambda: None)


ALIKE = (ConfigError, DivergedError, OutOfTimeError, PrunedError)
"""What all processes of a run meet at once: they are still in step after it."""


def _follow(ranks: Ranks) -> None:
    """Train what the first process launches, until it says that there is no more.

    It alone says what all of them meet.

    Raises:
        LostRankError: another process is gone.
        ElsewhereError: the first process has failed.
    """
    log.setLevel(logging.WARNING)
    for number in (signal.SIGINT, signal.SIGTERM):  # between two runs the first process answers for all
        signal.signal(number, signal.SIG_IGN)
    while job := ranks.broadcast_from_rank0(_nothing):
        node, directory = job
        config: Config = read_config(node)
        try:
            train(config, Run(Path(directory)), ranks)
        except (*ALIKE, Interrupted):
            continue


def _nothing() -> Any:
    raise AssertionError("asked of those who follow only")
