"""Episodes of any source, with a key each for what a learner draws for them."""

from __future__ import annotations

from dataclasses import replace

import torch

from metarun.errors import MetarunError, in_one_line
from metarun.tasks.batch import SPLITS, Split, TaskBatch, TaskSource
from metarun.tasks.draws import Draws
from metarun.tasks.given import check_batch, tidy


def episodes(source: TaskSource, split: Split, first_episode: int, count: int) -> TaskBatch:
    """Return episodes of a source whose support sets carry keys: functions of split and index alone."""
    batch = tidy(source, source.batch(split, first_episode, count))
    # Streams below len(SPLITS) are those that tasks themselves are drawn from.
    draws = Draws(0, len(SPLITS) + SPLITS.index(split), first_episode, count, batch.support.x.device)
    return replace(batch, support=replace(batch.support, key=draws.bits(1).squeeze(1)))


def first_episodes(source: TaskSource, split: Split, dtype: torch.dtype, count: int = 2) -> TaskBatch:
    """Return the first episodes of a split, after a look at whether they have the form that they should have.

    Args:
        source: prepared.
        split: which.
        dtype: of the model's parameters.
        count: how many.

    Raises:
        MetarunError: they do not, or the source fails.
    """
    try:
        batch = episodes(source, split, 0, count)
        check_batch(source, split, batch, count, dtype)
    except (MetarunError, OSError):
        raise
    except Exception as error:  # of a user's class, of any kind
        raise MetarunError(
            f"{type(source).__name__}.batch fails on the {split} split: {in_one_line(error)}"
        ) from error
    return batch
