"""Evaluation on a fixed set of tasks: mean and 95 % confidence interval after every adaptation step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from metarun.engine.executor import Executor, ShowProgress
from metarun.engine.parts import part_of
from metarun.evaluation.task_scores import TaskScores
from metarun.learners import IterativeLearner, Learner
from metarun.system.ranks import Ranks
from metarun.tasks import Measure, Split, Tasks, TaskSource, fewer_examples
from metarun.tasks.episodes import episodes
from metarun.tasks.fewer_examples import with_fewer_examples
from metarun.tasks.metrics import LOSS, selected_by
from metarun.tasks.sketch import sketch

_Z95 = NormalDist().inv_cdf(0.975)

Chunk = list[dict[str, Tensor]]
"""For each step, the scores of a chunk's tasks by name, [T]."""

# For runs whose results do not say how to read their scores.
_BEFORE = {"accuracy": Measure("accuracy", higher_is_better=True, percent=True)}


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks and the half-width of its 95 % confidence interval, 1.96 · s / √tasks."""

    mean: float
    ci95: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Return the estimate from one value per task, [N]."""
        values = values.double()
        spread = values.std().item() if len(values) > 1 else math.nan
        return cls(values.mean().item(), _Z95 * spread / math.sqrt(len(values)))


@dataclass(frozen=True)
class Curve:
    """The scores of `tasks` tasks before adaptation (entry 0) and after each adaptation step.

    For a learner without steps: with more and more support examples.

    Attributes:
        split: split of the tasks.
        tasks: number of tasks.
        steps: the scores by name, for each step.
        measures: how to read the scores: the loss, then the metrics.
        axis: what a step is; None where the curve has one entry.
        at: the number of each step, where they are not 0, 1, 2, …: support examples.
        transductive: whether a prediction depended on the other query examples; None without that choice.
        each_task: the scores of each task; None where they are not known.
    """

    split: Split
    tasks: int
    steps: list[dict[str, Estimate]]
    measures: tuple[Measure, ...] = (LOSS,)
    axis: str | None = "adaptation steps"
    transductive: bool | None = None
    at: tuple[int, ...] | None = None
    each_task: TaskScores | None = field(default=None, compare=False, repr=False)

    @property
    def numbers(self) -> tuple[int, ...]:
        """The number of each step."""
        return self.at or tuple(range(len(self.steps)))

    @property
    def final(self) -> dict[str, Estimate]:
        """The scores after the last step."""
        return self.steps[-1]

    @property
    def selection_score(self) -> float:
        """What model selection maximises: the first metric or else the loss, negated if lower is better."""
        measure = selected_by(self.measures)
        mean = self.final[measure.name].mean
        value = mean if measure.higher_is_better else -mean
        return value if math.isfinite(value) else -math.inf

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Curve:
        """Return the curve from the values of `as_dict`; null stands for NaN and infinity."""
        steps = [
            {
                name: Estimate(*(math.nan if score[key] is None else score[key] for key in ("mean", "ci95")))
                for name, score in scores.items()
                if name != "step"
            }
            for scores in content["curve"]
        ]
        axis = content.get("axis", "adaptation steps")
        measures = tuple(measures_of(content).values())
        numbers = tuple(scores.get("step", index) for index, scores in enumerate(content["curve"]))
        at = None if numbers == tuple(range(len(numbers))) else numbers
        transductive = content.get("transductive")
        return cls(content["split"], content["tasks"], steps, measures, axis, transductive, at)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        # A score that these predictions do not have is null.
        unscored = {measure.name: {"mean": None, "ci95": None} for measure in self.measures}
        curve = [
            {"step": step, **unscored, **{name: asdict(estimate) for name, estimate in scores.items()}}
            for step, scores in zip(self.numbers, self.steps, strict=True)
        ]
        return {
            "split": self.split,
            "tasks": self.tasks,
            "axis": self.axis,
            "transductive": self.transductive,
            "measures": [asdict(measure) for measure in self.measures],
            "final": {**unscored, **{name: asdict(estimate) for name, estimate in self.final.items()}},
            "curve": curve,
        }


def pooled(parts: Tensor) -> Tensor:
    """Return one value per task, [N], of a score's columns [parts, N].

    A pooled score is Σ_b |mean of part b|. Its value for a task is Σ_b s_b · part b, with s_b the sign of
    that mean: the mean over tasks is the score, and the spread gives its interval to first order.
    """
    return parts[0] if len(parts) == 1 else (parts.double().mean(1).sign()[:, None] * parts).sum(0)


def measures_of(results: Mapping[str, Any]) -> dict[str, Measure]:
    """Return how to read the scores of a run's results, by name."""
    if "measures" in results:
        return {measure["name"]: Measure(**measure) for measure in results["measures"]}
    return {name: _BEFORE.get(name, Measure(name)) for name in results.get("final", {})}


def evaluate(
    learner: Learner[Any],
    source: TaskSource,
    split: Split,
    tasks: int,
    executor: Executor,
    *,
    show: ShowProgress = lambda chunks, total: chunks,  # noqa: ARG005
    ranks: Ranks | None = None,
    over_examples: bool = False,
) -> Curve:
    """Adapt to episodes 0 … tasks − 1 of a split and score every step on their query sets.

    Each process of a run scores a share of the tasks, and all return the whole curve.

    Args:
        learner: the learner; its mode is restored afterwards.
        source: source of the episodes, prepared.
        split: split of the source.
        tasks: number of episodes.
        executor: computes them.
        show: wraps the chunks as they come, as in a progress bar; may raise, to stop.
        ranks: this process among those of the run.
        over_examples: whether to score a learner without steps after 1, 2, … support examples too.
    """
    ranks = ranks or Ranks()
    share = ranks.share(tasks)
    growing = over_examples and not isinstance(learner, IterativeLearner)
    batches: list[Tasks] = []

    def scores(chunk: slice) -> tuple[Chunk, Tensor]:
        batch = episodes(source, split, share.start + chunk.start, chunk.stop - chunk.start)
        batches[:] = [batch.part(slice(1))]
        parts = with_fewer_examples(batch) if growing else [batch]
        return [scores for part in parts for scores in learner.curve(part_of(learner, part))], sketch(batch)

    with learner.evaluating():
        results = executor.map(scores, share.stop - share.start, show)
    chunks = [chunk for chunk, _ in results]
    if len({len(chunk) for chunk in chunks}) > 1:  # some have support sets of equal sizes by chance
        chunks = [chunk[-1:] for chunk in chunks]
    names, values = _of_each_task(chunks, ranks)
    steps = [
        {name: Estimate.of(score) for name, score in zip(names, step, strict=True)}
        for step in values.transpose(0, 1)
    ]
    (like,) = batches
    axis, at = learner.axis if isinstance(learner, IterativeLearner) else None, None
    if growing and len(steps) > 1:
        axis, at = fewer_examples.axis(like), tuple(fewer_examples.sizes(like))
    numbers = at or tuple(range(len(steps)))
    kept = TaskScores(tuple(names), values, numbers, ranks.gather(torch.cat([s for _, s in results], 1)))
    return Curve(split, tasks, steps, like.measures, axis, learner.is_transductive, at, kept)


def _of_each_task(chunks: list[Chunk], ranks: Ranks) -> tuple[list[str], Tensor]:
    """Return the names of the scores, and their values for the tasks of all chunks and all processes.

    Returns:
        The names; float64 [names, steps, tasks].
    """
    names = list(chunks[0][0])
    # A score has one column, a pooled one a column for each of its parts.
    widths = [scores.shape[1] if scores.dim() > 1 else 1 for scores in chunks[0][0].values()]
    local_values = [
        torch.cat(
            [torch.cat([scores[name].view(len(scores[name]), -1) for name in names], 1) for scores in parts]
        )
        for parts in zip(*chunks, strict=True)
    ]
    values = ranks.gather(torch.stack(local_values).mT)  # [step, column, task]
    steps = [torch.stack([pooled(part).double() for part in step.split(widths)]) for step in values]
    return names, torch.stack(steps, 1).cpu()
