"""A stream of tasks, one after another, without going back to the start: what is learned, and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metarun.engine.executor import Executor, ShowProgress
from metarun.evaluation.curve import Estimate
from metarun.learners import AdaptedParameters, GradientAdaptation
from metarun.tasks import Measure, Scoring, Tasks, TaskSource
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
        measures: how to read the scores: the loss, then the metrics.
    """

    streams: int
    start: list[dict[str, Estimate]]
    scores: list[list[dict[str, Estimate]]]
    average: dict[str, Estimate]
    forgetting: dict[str, Estimate]
    measures: tuple[Measure, ...]


def follow_streams(
    learner: GradientAdaptation,
    source: TaskSource,
    executor: Executor,
    *,
    tasks: int,
    streams: int,
    show: ShowProgress = lambda chunks, total: chunks,  # noqa: ARG005
) -> Stream:
    """Adapt to `tasks` test tasks in a row, from each one's parameters to the next one's, in many streams.

    Stream s has the test episodes s · tasks … (s + 1) · tasks − 1.
    """
    was_training = learner.training
    learner.eval()
    try:
        parts = executor.map(lambda chunk: _follow(learner, source, tasks, chunk), streams, show)
    finally:
        learner.train(was_training)
    measures = {each.name: each for each in Scoring(source.loss, tuple(source.metrics)).measures}
    scores = {name: torch.cat([part[name] for part in parts], -1).double() for name in parts[0]}

    def estimates(values: Callable[[Tensor], Tensor]) -> dict[str, Estimate]:
        return {name: Estimate.of(values(own)) for name, own in scores.items()}

    after = [
        [estimates(lambda v, i=i, j=j: v[i, j]) for j in range(tasks)]  # type: ignore[misc]
        for i in range(tasks + 1)
    ]
    return Stream(
        streams,
        after[0],
        after[1:],
        estimates(lambda v: v[-1].mean(0)),
        {name: Estimate.of(_forgotten(measures[name], own)) for name, own in scores.items()}
        if tasks > 1
        else {},
        tuple(measures.values()),
    )


def _forgotten(measure: Measure, values: Tensor) -> Tensor:
    """Return how much worse a stream's tasks are at its end than right after each, [streams]."""
    right_after = values[1:].diagonal().mT[:-1]  # [task, stream]
    change = (values[-1, :-1] - right_after).mean(0)
    return -change if measure.higher_is_better else change


def _follow(learner: GradientAdaptation, source: TaskSource, tasks: int, streams: slice) -> dict[str, Tensor]:
    """Return the scores by name, [tasks + 1, tasks, streams]."""
    count = streams.stop - streams.start
    batch = episodes(source, "test", streams.start * tasks, count * tasks)
    each_task = [batch.part(slice(first, None, tasks)) for first in range(tasks)]
    with torch.no_grad():
        adapted = next(learner.trajectory(each_task[0].without_answers()))
        rows = [_on_all(learner, adapted, each_task)]
        for task in each_task:
            adapted = learner.adapt_from(adapted, task.without_answers())
            rows.append(_on_all(learner, adapted, each_task))
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _on_all(learner: GradientAdaptation, adapted: AdaptedParameters, tasks: list[Tasks]) -> dict[str, Tensor]:
    """Return the scores on every task by name, [tasks, streams]."""
    # Beside whose support set a query example is predicted, where it is predicted alone.
    scores = [learner.scores(replace(adapted, support_x=task.support.x), task) for task in tasks]
    return {name: torch.stack([each[name] for each in scores]) for name in scores[0]}
