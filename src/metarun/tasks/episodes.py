"""Episodes of any source, with a key each for what a learner draws for them."""

from __future__ import annotations

from dataclasses import replace

from metarun.tasks.batch import SPLITS, Split, TaskBatch, TaskSource
from metarun.tasks.draws import Draws


def episodes(source: TaskSource, split: Split, first_episode: int, count: int) -> TaskBatch:
    """Return episodes of a source whose support sets carry keys: functions of split and index alone."""
    batch = source.batch(split, first_episode, count)
    # Streams below len(SPLITS) are those that tasks themselves are drawn from.
    draws = Draws(0, len(SPLITS) + SPLITS.index(split), first_episode, count, batch.support.x.device)
    return replace(batch, support=replace(batch.support, key=draws.bits(1).squeeze(1)))
