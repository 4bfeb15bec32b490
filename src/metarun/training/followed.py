"""Opens the loggers of a training, and closes them however it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from metarun.errors import OutOfTimeError, PrunedError, in_one_line
from metarun.evaluation.curve import Curve
from metarun.experiment.sources import make
from metarun.figures import Histograms
from metarun.reports.pictures import picture
from metarun.runs.labels import flat
from metarun.runs.loggers import Ended, RunFacts
from metarun.runs.loggers.following import Loggers
from metarun.tasks.description import class_names
from metarun.tasks.episodes import first_episodes
from metarun.training.state import Training

log = logging.getLogger("metarun")

_PICTURED = 2  # episodes


@contextmanager
def followed(training: Training) -> Iterator[list[Curve]]:
    """Have the loggers of the config follow a training that is about to begin or to continue.

    Yields:
        A list, for the curve of the test.
    """
    tested: list[Curve] = []
    nodes = training.config.logger
    if not (nodes and training.ranks.first):
        yield tested
        return
    config = {key: v for key, v in flat(training.run.config()).items() if not key.startswith("logger.")}
    facts = RunFacts(training.run.directory, config, training.step)
    training.loggers = Loggers({name: make("logger", node) for name, node in nodes.items()}, facts)
    if training.loggers.new:
        _try(_show_episodes, training)
    ended: Ended = "failed"
    try:
        yield tested
        ended = "finished"
    except (KeyboardInterrupt, OutOfTimeError, PrunedError):
        ended = "interrupted"
        raise
    finally:
        scores = {f"test/{name}": each.mean for curve in tested for name, each in curve.final.items()}
        training.loggers.close(ended, scores)


def show_learned(training: Training) -> None:
    """Hand over the distributions of what the learner has learned: rates by layer."""
    if training.loggers:
        _try(_show_learned, training)


def _try(show: Callable[[Training], None], training: Training) -> None:
    """Show something of the learner; what a user's class may raise must not end the training."""
    try:
        show(training)
    except Exception as error:
        log.warning("not handed to the loggers: %s", in_one_line(error))


def _show_learned(training: Training) -> None:
    tasks = first_episodes(training.source, "validation", training.experiment.dtype, _PICTURED)
    for figure in training.experiment.learner.learned(tasks):
        if isinstance(figure, Histograms):
            values = {f"{figure.name}/{label}": v.float().numpy() for label, v in figure.values.items()}
            training.loggers.histograms(training.step, values)


def _show_episodes(training: Training) -> None:
    """Hand over a picture of the first validation episodes, where they are of images of classes."""
    source = training.source
    if len(source.input_shape) != 3 or source.input_shape[0] not in (1, 3):
        return
    tasks = first_episodes(source, "validation", training.experiment.dtype, _PICTURED)
    if tasks.query.y.is_floating_point():
        return
    names = class_names(source, "validation").get("classes", [])
    training.loggers.pictures(0, {"validation/episodes": np.asarray(picture(tasks, names))})
