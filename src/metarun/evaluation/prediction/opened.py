"""A learner that has seen its examples: of a run and files of them, or of a file of metarun adapt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from metarun.errors import ConfigError
from metarun.evaluation.prediction.model_file import read_model
from metarun.evaluation.prediction.own_examples import read_support
from metarun.evaluation.prediction.task_model import TaskModel
from metarun.evaluation.prediction.usable import usable


def opened(place: Path, support: Path | None, overrides: Sequence[str] = ()) -> TaskModel:
    """Return the adapted learner.

    Args:
        place: of a run's directory, or a file of metarun adapt.
        support: labelled examples, of a run.
        overrides: key=value; of a file the device alone.

    Raises:
        ConfigError: an argument does not fit.
        MetarunError: there is no run and no such file.
    """
    if place.is_file():
        if support is not None:
            raise ConfigError(f"{place} has seen its examples: --support is for a run")
        for word in overrides:
            if not word.startswith("device="):
                raise ConfigError(f"{word}: of a file only the device can be changed: device=cpu")
        chosen = [word.partition("=")[2] for word in overrides]
        return read_model(place, chosen[-1] if chosen else None)
    if support is None:
        raise ConfigError("--support is missing: class folders, a csv, or a file of rows")
    learner = usable(place, overrides)
    values = learner.facts.targets == "values"
    return TaskModel(learner, read_support(support, learner.reading, learner.dtype, values=values))
