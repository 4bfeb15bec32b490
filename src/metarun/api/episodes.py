"""Episodes in Python."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import torch

from metarun.config.composition import as_typed, compose_config
from metarun.errors import ConfigError, did_you_mean, with_keys
from metarun.experiment.config import read_config
from metarun.experiment.fit import without_training
from metarun.experiment.sources import build_source
from metarun.tasks import SPLITS, Split, Tasks, TaskSource
from metarun.tasks.episodes import episodes


class Episodes:
    """The episodes of a split: e[i] is episode i, e[3:7] are four of them, and a loop goes on without end.

    Each is a pure function of the data's keys, the split and its number.

    Args:
        source: of the episodes, prepared.
        split: train, validation or test.

    Attributes:
        source: as given.
        split: as given.
    """

    def __init__(self, source: TaskSource, split: Split) -> None:
        self.source, self.split = source, split

    def __getitem__(self, chosen: int | slice) -> Tasks:
        """Return an episode, or several: `support.x` is [episodes, n, …].

        Raises:
            IndexError: a number is negative, or a slice has a step or no end.
        """
        first, last = (chosen, chosen + 1) if isinstance(chosen, int) else (chosen.start or 0, chosen.stop)
        stepped = isinstance(chosen, slice) and chosen.step not in (None, 1)
        if last is None or stepped or not 0 <= first < last:
            raise IndexError(f"{chosen}: expected a number from 0, or first:last")
        return episodes(self.source, self.split, first, last - first)

    def __iter__(self) -> Iterator[Tasks]:
        """Yield episode 0, 1, …, without end."""
        return (self[i] for i in count())


@with_keys()
def tasks(data: str, part: Split = "train", *, device: str = "cpu", **keys: Any) -> Episodes:
    """Return the episodes of a dataset, as in `tasks("omniglot", way=5, shot=1)`.

    Args:
        data: an option of `data`, as `metarun data list` has them.
        part: train, validation or test.
        device: where they are kept.
        **keys: the dataset's keys, `way` for data.way.

    Raises:
        ConfigError: there is no such dataset, part or key.
        MetarunError: files are missing.
    """
    if part not in SPLITS:
        raise ConfigError(f"{part}: expected one of {', '.join(SPLITS)}{did_you_mean(part, SPLITS)}")
    words = [f"data={data}", *(f"data.{key}={as_typed(value)}" for key, value in keys.items())]
    source = build_source(without_training(read_config(compose_config(words))))
    source.prepare(torch.device(device))
    return Episodes(source, part)
