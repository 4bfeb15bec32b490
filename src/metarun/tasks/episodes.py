"""Episodes of any source, each with a key for a learner's random draws."""

from __future__ import annotations

from dataclasses import replace

import torch

from metarun.errors import MetarunError, in_one_line
from metarun.system.allocator import is_out_of_memory
from metarun.tasks.draws import Draws
from metarun.tasks.given import check_batch, tidy
from metarun.tasks.metrics import Scoring
from metarun.tasks.types import SPLITS, Split, Tasks, TaskSource


def episodes(source: TaskSource, split: Split, first_episode: int, count: int) -> Tasks:
    """Return episodes of a source with keys and scoring, a pure function of split and index."""
    try:
        batch = tidy(source, source.batch(split, first_episode, count))
        check_batch(
            source, split, batch, count, values=first_episode == 0 or batch.support.x.device.type == "cpu"
        )
    except (MetarunError, OSError):
        raise
    except Exception as error:  # a user's class may raise an error of any type
        if is_out_of_memory(error):
            raise
        raise MetarunError(
            f"{type(source).__name__}.batch fails on the {split} split: {in_one_line(error)}"
        ) from error
    # Streams below len(SPLITS) draw the tasks themselves.
    draws = Draws(0, len(SPLITS) + SPLITS.index(split), first_episode, count, batch.support.x.device)
    scoring = batch.scoring or Scoring(source.loss, tuple(source.metrics))
    return replace(batch, key=draws.bits(1).squeeze(1), scoring=scoring)


def first_episodes(source: TaskSource, split: Split, dtype: torch.dtype, count: int = 2) -> Tasks:
    """Return the first episodes of a split, after checking their form and dtype.

    Args:
        source: a prepared source.
        split: train, validation or test.
        dtype: dtype of the model's parameters.
        count: number of episodes.

    Raises:
        MetarunError: the form or the dtype is wrong, or the source fails.
    """
    batch = episodes(source, split, 0, count)
    for examples in (batch.support, batch.query):
        for tensor in (examples.x, examples.y):
            if tensor.is_floating_point() and tensor.dtype != dtype:
                raise MetarunError(
                    f"{type(source).__name__}.batch: {split} tasks are {tensor.dtype}, but dtype= is {dtype}"
                )
    return batch
