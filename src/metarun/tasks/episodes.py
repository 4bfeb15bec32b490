"""Episodes of any source, with a key each for what a learner draws for them."""

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
    """Return episodes of a source, functions of split and index, with keys and what they are scored by."""
    try:
        batch = tidy(source, source.batch(split, first_episode, count))
        check_batch(
            source, split, batch, count, values=first_episode == 0 or batch.support.x.device.type == "cpu"
        )
    except (MetarunError, OSError):
        raise
    except Exception as error:  # of a user's class, of any kind
        if is_out_of_memory(error):
            raise
        raise MetarunError(
            f"{type(source).__name__}.batch fails on the {split} split: {in_one_line(error)}"
        ) from error
    # Streams below len(SPLITS) are those that tasks themselves are drawn from.
    draws = Draws(0, len(SPLITS) + SPLITS.index(split), first_episode, count, batch.support.x.device)
    scoring = batch.scoring or Scoring(source.loss, tuple(source.metrics))
    return replace(batch, key=draws.bits(1).squeeze(1), scoring=scoring)


def first_episodes(source: TaskSource, split: Split, dtype: torch.dtype, count: int = 2) -> Tasks:
    """Return the first episodes of a split, after a look at whether they have the form that they should have.

    Args:
        source: prepared.
        split: which.
        dtype: of the model's parameters.
        count: how many.

    Raises:
        MetarunError: they do not, or the source fails.
    """
    batch = episodes(source, split, 0, count)
    for examples in (batch.support, batch.query):
        for each in (examples.x, examples.y):
            if each.is_floating_point() and each.dtype != dtype:
                raise MetarunError(
                    f"{type(source).__name__}.batch: {split} tasks are {each.dtype}, expected {dtype} as "
                    f"dtype= says"
                )
    return batch
