"""Tasks: every tensor of a batch of them carries a leading task dimension T."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.distributions import Categorical

from metarun.tasks.metrics import Loss, Metric, Predictions, Scores, Scoring

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Predict = Callable[[Tensor], Predictions]
"""Inputs [T, n, …] to predictions."""

Tree = TypeVar("Tree")


def map_tensors(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """Return the same dataclasses and dictionaries with every tensor in them replaced by the function's."""
    made: Any = tree
    if isinstance(tree, Tensor):
        made = function(tree)
    elif isinstance(tree, Examples | Tasks):
        own = {each.name: getattr(tree, each.name) for each in fields(tree)}
        changed = {name: map_tensors(value, function) for name, value in own.items()}
        made = replace(tree, **{name: value for name, value in changed.items() if value is not own[name]})
    elif isinstance(tree, Mapping):
        made = {name: map_tensors(value, function) for name, value in tree.items()}
    return made  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Examples:
    """Labelled examples of T tasks.

    Attributes:
        x: inputs, [T, n, …].
        y: targets: classes [T, n], or values [T, n, d].
        mask: [T, n], False at examples that only fill up tasks of fewer; None: all of them count.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None = None

    def take(self, chosen: Tensor | slice) -> Examples:
        """Return the same examples of every task, chosen along the dimension n."""
        mask = None if self.mask is None else self.mask[:, chosen]
        return Examples(self.x[:, chosen], self.y[:, chosen], mask)

    def __len__(self) -> int:
        """Return the number of examples of each task."""
        return self.x.shape[1]


@dataclass(frozen=True)
class Tasks:
    """T sampled tasks.

    Attributes:
        support: what a learner learns from.
        query: what its predictions are scored on.
        info: what is known of each task, [T, …] by name, for people and tests.
        key: random bits of each task for what a learner draws for it, int64 [T]; see `episodes`.
        ways: how many classes each task has, [T], where they differ; classes beyond that are never predicted.
        scoring: what predictions are judged by.
    """

    support: Examples
    query: Examples
    info: Mapping[str, Tensor] = field(default_factory=dict)
    key: Tensor | None = None
    ways: Tensor | None = None
    scoring: Scoring | None = None

    def __len__(self) -> int:
        """Return the number of tasks T."""
        return self.support.x.shape[0]

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        found: list[Tensor] = []

        def note(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        map_tensors(self, note)
        return found

    @property
    def bytes(self) -> int:
        """How much memory its tensors take."""
        return sum(each.numel() * each.element_size() for each in self.tensors())

    def part(self, chosen: slice) -> Self:
        """Return some of the tasks."""
        return map_tensors(self, lambda tensor: tensor[chosen])

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the tasks on a device, their floating-point numbers of a type."""
        return map_tensors(self, lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def without_answers(self) -> Self:
        """Return the same tasks with zeros as the targets of the query set: all that a learner may see."""
        hidden = self.query.y.new_zeros(()).expand_as(self.query.y)
        return replace(self, query=replace(self.query, y=hidden))

    def losses(self, predictions: Predictions, examples: Examples) -> Tensor:
        """Return each task's loss on examples of its own, [T]."""
        return self._value(self._scoring.loss, self._within_ways(predictions), examples)

    def score(self, predict: Predict, on: Literal["support", "query"] = "query") -> Scores:
        """Return the loss and the metrics of each task; only the loss can be differentiated."""
        examples: Examples = getattr(self, on)
        predictions = self._within_ways(predict(examples.x))
        scores = {"loss": self._value(self._scoring.loss, predictions, examples)}
        with torch.no_grad():
            for metric in self._scoring.metrics:
                scores[metric.name] = self._value(metric.compute, predictions, examples)
        return scores

    @property
    def _scoring(self) -> Scoring:
        if self.scoring is None:
            raise ValueError("these tasks have no scoring: Tasks(…, scoring=Scoring(loss))")
        return self.scoring

    @staticmethod
    def _value(function: Loss, predictions: Predictions, examples: Examples) -> Tensor:
        if examples.mask is None:
            return function(predictions, examples.y)
        return function(predictions, examples.y, examples.mask)

    def _within_ways(self, predictions: Predictions) -> Predictions:
        """Let no class be predicted that a task does not have."""
        if self.ways is None or not isinstance(predictions, Tensor | Categorical):
            return predictions
        logits = predictions if isinstance(predictions, Tensor) else predictions.logits
        classes = torch.arange(logits.shape[-1], device=logits.device)
        within = logits.masked_fill(classes >= self.ways[:, None, None], -torch.inf)
        return within if isinstance(predictions, Tensor) else Categorical(logits=within)


class TaskSource(Protocol):
    """Where tasks come from (`data=`): what a model and a learner need to know, and the episodes.

    Attributes:
        loss: what the predictions for its tasks are judged by.
        metrics: what people read besides; the first selects the best learner.
        input_shape: of one example.
        output_size: outputs of a model; None: what a model makes of an example is no prediction.
    """

    loss: Loss
    metrics: tuple[Metric, ...]
    input_shape: tuple[int, ...]
    output_size: int | None

    def prepare(self, device: torch.device) -> None:
        """Read or download what episodes are drawn from, and keep it on the device."""

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1: same arguments, same bits."""
