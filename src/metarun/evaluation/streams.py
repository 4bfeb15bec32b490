"""Streams: adaptation to task after task without resets; what is learned, and what is forgotten."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from metarun.engine.executor import Executor, ShowProgress
from metarun.errors import ConfigError
from metarun.evaluation.curve import Estimate
from metarun.learners import AdaptedParameters, GradientAdaptation
from metarun.tasks import Measure, Tasks, TaskSource
from metarun.tasks.episodes import episodes


@dataclass(frozen=True)
class Stream:
    """Scores after each task of a stream, on each of its tasks: `scores[i][j]` on task j after tasks 0 … i.

    Attributes:
        streams: number of streams averaged over.
        start: the scores on each task before the first.
        average: the mean score at the end over all tasks.
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
    """Adapt to `tasks` test tasks in a row, each from the parameters adapted to the last, in every stream.

    Stream s has the test episodes s · tasks … (s + 1) · tasks − 1.
    """
    with learner.evaluating():
        parts = executor.map(lambda chunk: _follow(learner, source, tasks, chunk), streams, show)
    measures = {measure.name: measure for measure in parts[0][1]}
    scores = {name: torch.cat([part[name] for part, _ in parts], -1).double() for name in parts[0][0]}

    def estimates(values: Callable[[Tensor], Tensor]) -> dict[str, Estimate]:
        return {name: Estimate.of(values(tensor)) for name, tensor in scores.items()}

    estimated = [
        [estimates(lambda v, i=i, j=j: v[i, j]) for j in range(tasks)]  # type: ignore[misc]
        for i in range(tasks + 1)
    ]
    return Stream(
        streams,
        estimated[0],
        estimated[1:],
        estimates(lambda v: v[-1].mean(0)),
        {name: Estimate.of(_forgotten(measures[name], values)) for name, values in scores.items()}
        if tasks > 1
        else {},
        tuple(measures.values()),
    )


def _forgotten(measure: Measure, values: Tensor) -> Tensor:
    """Return how much worse a stream's tasks score at its end than right after each, [streams]."""
    right_after = values[1:].diagonal().mT[:-1]  # [task, stream]
    change = (values[-1, :-1] - right_after).mean(0)
    return -change if measure.higher_is_better else change


def _follow(
    learner: GradientAdaptation, source: TaskSource, tasks: int, streams: slice
) -> tuple[dict[str, Tensor], tuple[Measure, ...]]:
    """Return the scores by name, [tasks + 1, tasks, streams], and how to read them."""
    count = streams.stop - streams.start
    batch = episodes(source, "test", streams.start * tasks, count * tasks)
    if reason := learner.apart(batch):
        raise ConfigError(f"these tasks have different sizes, and {reason}", "@model.norm=group")
    stream_tasks = [batch.part(slice(first, None, tasks)) for first in range(tasks)]
    with torch.no_grad():
        adapted = next(learner.trajectory(stream_tasks[0].without_answers()))
        rows = [_on_all(learner, adapted, stream_tasks)]
        for task in stream_tasks:
            adapted = learner.adapt_from(adapted, task.without_answers())
            rows.append(_on_all(learner, adapted, stream_tasks))
    measures = tuple(measure for measure in batch.measures if measure.name in rows[0])
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}, measures


def _on_all(learner: GradientAdaptation, adapted: AdaptedParameters, tasks: list[Tasks]) -> dict[str, Tensor]:
    """Return the scores on every task by name, [tasks, streams]."""
    # Outside transductive mode, each query example is predicted in one batch with this support set.
    scores = [
        task.score(partial(learner.predict, replace(adapted, support_x=task.support.x)), pooled=False)
        for task in tasks
    ]
    return {name: torch.stack([task_scores[name] for task_scores in scores]) for name in scores[0]}
