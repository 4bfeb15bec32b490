"""A stream of tasks, one after another, without going back to the start: what is learned, and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from metarun.evaluation.curve import Estimate, is_share
from metarun.learners import GradientAdaptation
from metarun.tasks import TaskBatch, TaskSource
from metarun.tasks.episodes import episodes


@dataclass(frozen=True)
class Stream:
    """Scores after each task of a stream, on each of its tasks: `scores[i][j]` on task j after tasks 0 … i.

    Attributes:
        streams: how many were averaged over.
        start: on each task before the first.
        average: at the end, over all tasks.
        forgetting: how much worse the score on a task is at the end than right after it, over all tasks but
            the last (Chaudhry et al. 2018, arXiv:1801.10112, with the score right after instead of the best).
    """

    streams: int
    start: list[dict[str, Estimate]]
    scores: list[list[dict[str, Estimate]]]
    average: dict[str, Estimate]
    forgetting: dict[str, Estimate]


def follow_streams(
    learner: GradientAdaptation,
    source: TaskSource,
    *,
    tasks: int,
    streams: int,
    chunk: int,
    progress: Callable[[Iterable[int], int], Iterable[int]] = lambda firsts, total: firsts,  # noqa: ARG005
) -> Stream:
    """Adapt to `tasks` test tasks in a row, from each one's parameters to the next one's, in many streams.

    Stream s has the test episodes s · tasks … (s + 1) · tasks − 1.
    """
    was_training = learner.training
    learner.eval()
    try:
        firsts = range(0, streams, chunk)
        parts = [
            _follow(learner, source, tasks, range(first, min(first + chunk, streams)))
            for first in progress(firsts, len(firsts))
        ]
    finally:
        learner.train(was_training)
    found = {name: torch.cat([part[name] for part in parts], -1).double() for name in parts[0]}
    names = list(found)

    def estimates(values: Callable[[Tensor], Tensor]) -> dict[str, Estimate]:
        return {name: Estimate.of(values(found[name])) for name in names}

    after = [
        [estimates(lambda v, i=i, j=j: v[i, j]) for j in range(tasks)]  # type: ignore[misc]
        for i in range(tasks + 1)
    ]
    return Stream(
        streams,
        after[0],
        after[1:],
        estimates(lambda v: v[-1].mean(0)),
        {name: Estimate.of(_forgotten(name, found[name])) for name in names} if tasks > 1 else {},
    )


def _forgotten(name: str, values: Tensor) -> Tensor:
    """Return how much worse a stream's tasks are at its end than right after each, [streams]."""
    right_after = values[1:].diagonal().mT[:-1]  # [task, stream]
    change = (values[-1, :-1] - right_after).mean(0)
    return -change if is_share(name) else change


def _follow(learner: GradientAdaptation, source: TaskSource, tasks: int, streams: range) -> dict[str, Tensor]:
    """Return the scores by name, [tasks + 1, tasks, streams]."""
    batch = episodes(source, "test", streams.start * tasks, len(streams) * tasks)
    each = [_every(batch, first, tasks) for first in range(tasks)]
    adapted = next(iter(learner.trajectory(each[0].support, "none")))
    rows = [_on_all(learner, adapted, each)]
    for task in each:
        for adapted in learner.go_on(adapted, task.support, "none"):  # noqa: B007, B020  (the last is kept)
            pass
        rows.append(_on_all(learner, adapted, each))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _every(batch: TaskBatch, first: int, step: int) -> TaskBatch:
    return batch.part(slice(first, None, step))


def _on_all(learner: GradientAdaptation, adapted: Any, tasks: list[TaskBatch]) -> dict[str, Tensor]:
    """Return the scores on every task by name, [tasks, streams]."""
    with torch.no_grad():
        # Beside whose support set a query example is predicted, where it is predicted alone.
        scores = [learner.scores(replace(adapted, support_x=task.support.x), task.query) for task in tasks]
    return {name: torch.stack([each[name] for each in scores]) for name in scores[0]}
