"""Evaluation on a fixed set of tasks: mean and 95 % confidence interval after every adaptation step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from metarun.learners import Learner
from metarun.system.ranks import Ranks
from metarun.system.workers import Workers
from metarun.tasks import Split, TaskSource
from metarun.tasks.episodes import episodes

_Z95 = NormalDist().inv_cdf(0.975)

Chunk = list[dict[str, Tensor]]
"""[step] → scores of the tasks of a chunk by name, [T]."""

Progress = Callable[[Iterator[Chunk], int], Iterable[Chunk]]
"""Hands through so many chunks, showing how far it is."""


def is_share(name: str) -> bool:
    """Say whether a score is a share of examples, shown in percent, and better the larger it is."""
    return name == "accuracy"


@dataclass(frozen=True)
class Estimate:
    """A mean over tasks and the half-width of its 95 % confidence interval, 1.96 · s / √tasks."""

    mean: float
    ci95: float

    @classmethod
    def of(cls, values: Tensor) -> Estimate:
        """Return the estimate from one value a task, [N]."""
        values = values.double()
        spread = values.std().item() if len(values) > 1 else math.nan
        return cls(values.mean().item(), _Z95 * spread / math.sqrt(len(values)))


@dataclass(frozen=True)
class Curve:
    """The scores of `tasks` tasks before adaptation (entry 0) and after each adaptation step."""

    split: Split
    tasks: int
    steps: list[dict[str, Estimate]]

    @property
    def final(self) -> dict[str, Estimate]:
        """The scores after the last step."""
        return self.steps[-1]

    @property
    def quality(self) -> float:
        """What model selection maximises: accuracy where there is one, else minus the loss."""
        shares = [each.mean for name, each in self.final.items() if is_share(name)]
        value = shares[0] if shares else -self.final["loss"].mean
        return value if math.isfinite(value) else -math.inf

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Curve:
        """Return the curve that `as_dict` made these values of; null stands for what is not a number."""
        steps = [
            {
                name: Estimate(*(math.nan if each[key] is None else each[key] for key in ("mean", "ci95")))
                for name, each in scores.items()
                if name != "step"
            }
            for scores in content["curve"]
        ]
        return cls(content["split"], content["tasks"], steps)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        curve = [
            {"step": step, **{name: asdict(each) for name, each in scores.items()}}
            for step, scores in enumerate(self.steps)
        ]
        return {
            "split": self.split,
            "tasks": self.tasks,
            "final": {name: asdict(each) for name, each in self.final.items()},
            "curve": curve,
        }


def evaluate(
    learner: Learner[Any],
    source: TaskSource,
    split: Split,
    tasks: int,
    *,
    chunk: int,
    workers: Workers | None = None,
    progress: Progress = lambda chunks, total: chunks,  # noqa: ARG005
    ranks: Ranks | None = None,
) -> Curve:
    """Adapt to episodes 0 … tasks − 1 of a split and score every step on their query sets.

    Processes of one run take a share each, and all return the whole curve.
    """
    ranks = ranks or Ranks()
    share = ranks.share(tasks)
    was_training = learner.training
    learner.eval()
    firsts = range(share.start, share.stop, chunk)

    def scores(first: int) -> Chunk:
        return list(learner.curve(episodes(source, split, first, min(chunk, share.stop - first))))

    try:
        chunks = list(progress((workers or Workers(1)).map(scores, firsts), len(firsts)))
    finally:
        learner.train(was_training)
    names = list(chunks[0][0])
    own = [
        [torch.cat([scores[name] for scores in parts]) for name in names]
        for parts in zip(*chunks, strict=True)
    ]
    values = ranks.gather(torch.stack([torch.stack(each) for each in own]))  # [step, name, task]
    steps = [{name: Estimate.of(scores) for name, scores in zip(names, each, strict=True)} for each in values]
    return Curve(split, tasks, steps)
