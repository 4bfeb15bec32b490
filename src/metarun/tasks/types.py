"""Tasks and their sources: every tensor of a batch has a leading task dimension T."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.distributions import Categorical

from metarun.tasks.metrics import (
    Loss,
    Measure,
    Metric,
    Predictions,
    Scores,
    Scoring,
    binary_cross_entropy,
    cross_entropy,
)

Split = Literal["train", "validation", "test"]
Targets = Literal["classes", "binary", "values"]
"""`classes`: labels with one logit per class; `binary`: labels with a single logit; `values`: numbers."""

TrainsOn = Literal["episodes", "images"]
"""The kind of training tasks: support and query sets, or mini-batches of images of all training classes."""

SPLITS: tuple[Split, ...] = ("train", "validation", "test")

Predict = Callable[[Tensor], Predictions]
"""Maps inputs [T, n, …] to predictions."""

Tree = TypeVar("Tree")


def map_tensors(tree: Tree, function: Callable[[Tensor], Tensor]) -> Tree:
    """Return the same dataclasses and dictionaries with the function applied to every tensor in them."""
    result: Any = tree
    if isinstance(tree, Tensor):
        result = function(tree)
    elif isinstance(tree, Examples | Tasks):
        values = {attribute.name: getattr(tree, attribute.name) for attribute in fields(tree)}
        results = {name: map_tensors(value, function) for name, value in values.items()}
        result = replace(
            tree, **{name: value for name, value in results.items() if value is not values[name]}
        )
    elif isinstance(tree, Mapping):
        result = {name: map_tensors(value, function) for name, value in tree.items()}
    return result  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Examples:
    """Labelled examples of T tasks.

    Attributes:
        x: inputs, [T, n, …].
        y: targets: classes [T, n], or values [T, n, d].
        mask: [T, n], False at padding examples of smaller tasks; None: all examples count.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None = None

    def take(self, chosen: Tensor | slice) -> Examples:
        """Return the chosen examples of every task, indexed along the dimension n."""
        mask = None if self.mask is None else self.mask[:, chosen]
        return Examples(self.x[:, chosen], self.y[:, chosen], mask)

    def at(self, index: Tensor) -> Examples:
        """Return the examples at indices [T, k] of each task, without a mask: all of them count."""

        def gathered(values: Tensor) -> Tensor:
            return values.gather(1, _like(index, values).expand(*index.shape, *values.shape[2:]))

        return Examples(gathered(self.x), gathered(self.y))

    def followed_by(self, others: Examples) -> Examples:
        """Return the examples of both, in this order."""
        mask = None
        if self.mask is not None or others.mask is not None:
            mask = torch.cat([self.counting, others.counting], 1)
        return Examples(torch.cat([self.x, others.x], 1), torch.cat([self.y, others.y], 1), mask)

    @property
    def counting(self) -> Tensor:
        """The mask [T, n], all True where there is none."""
        everything = self.x.new_ones(self.x.shape[:2], dtype=torch.bool)
        return everything if self.mask is None else self.mask

    def padded(self) -> Examples:
        """Return the same examples, with zeros at padding."""
        if self.mask is None:
            return self
        x, y = (values.masked_fill(~_like(self.mask, values), 0) for values in (self.x, self.y))
        return Examples(x, y, self.mask)

    def packed(self) -> Examples:
        """Return the same examples with the least possible padding, moved to the end and set to zeros.

        This makes results independent of the place, the amount and the content of padding.
        """
        if self.mask is None:
            return self
        counts = self.mask.sum(1)
        most = int(counts.max())
        first = (~self.mask).long().argsort(dim=1, stable=True)[:, :most]  # the examples that count
        mask = torch.arange(most, device=first.device) < counts[:, None]
        return replace(self.at(first), mask=None if bool(mask.all()) else mask).padded()

    def __len__(self) -> int:
        """Return the number of examples of each task."""
        return self.x.shape[1]


def _like(mask: Tensor, values: Tensor) -> Tensor:
    """Return the mask [T, n] as [T, n, 1, …], with the number of dimensions of `values`."""
    return mask.view(*mask.shape, *[1] * (values.dim() - 2))


@dataclass(frozen=True)
class Tasks:
    """T sampled tasks.

    Attributes:
        support: the examples that a learner learns from.
        query: the examples that predictions are scored on.
        info: properties of each task, [T, …] by name, for users and tests.
        key: random bits of each task for a learner's draws, int64 [T]; see `episodes`.
        ways: number of classes of each task, [T], if tasks differ; other classes are never predicted.
        scoring: the loss and the metrics of predictions.
        unlabelled: unlabelled examples to learn from, with zeros as targets; None: there are none.
    """

    support: Examples
    query: Examples
    info: Mapping[str, Tensor] = field(default_factory=dict)
    key: Tensor | None = None
    ways: Tensor | None = None
    scoring: Scoring | None = None
    unlabelled: Examples | None = None

    def __len__(self) -> int:
        """Return the number of tasks T."""
        return self.support.x.shape[0]

    @property
    def is_padded(self) -> bool:
        """Whether some examples may be padding."""
        return self.support.mask is not None or self.query.mask is not None

    def tensors(self) -> list[Tensor]:
        """Return all tensors, in a fixed order."""
        tensors: list[Tensor] = []

        def collect(tensor: Tensor) -> Tensor:
            tensors.append(tensor)
            return tensor

        map_tensors(self, collect)
        return tensors

    @property
    def bytes(self) -> int:
        """Memory of all tensors, in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def part(self, chosen: slice) -> Self:
        """Return the chosen tasks."""
        return map_tensors(self, lambda tensor: tensor[chosen])

    def to(self, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return the tasks on a device, with floating-point tensors in a dtype."""
        return map_tensors(self, lambda t: t.to(device, dtype if t.is_floating_point() else None))

    def packed(self) -> Self:
        """Return the tasks with the least possible padding; a single task then has no padding."""
        return replace(self, support=self.support.packed(), query=self.query.packed())

    def without_answers(self) -> Self:
        """Return the tasks without the query set's targets, which become zeros."""
        hidden = self.query.y.new_zeros(()).expand_as(self.query.y)
        return replace(self, query=replace(self.query, y=hidden))

    def losses(self, predictions: Predictions, examples: Examples) -> Tensor:
        """Return each task's loss on its examples, [T]."""
        return self._value(self._scoring.loss, self._within_ways(predictions), examples)

    def minimising(self, loss: Loss) -> Self:
        """Return the tasks with another loss of the query sets, which the outer loop then minimises."""
        return replace(self, scoring=replace(self._scoring, query_loss=loss))

    def score(
        self, predict: Predict, on: Literal["support", "query"] = "query", *, pooled: bool = True
    ) -> Scores:
        """Return the loss and the metrics of each task; only the loss is differentiable.

        Args:
            predict: maps inputs [T, n, …] to predictions.
            on: the examples to score.
            pooled: whether to include metrics of all tasks together; see `Metric.pooled`.
        """
        examples: Examples = getattr(self, on)
        predictions = self._within_ways(predict(examples.x))
        loss = self._scoring.query_loss or self._scoring.loss
        scores = {"loss": self._value(loss, predictions, examples)}
        with torch.no_grad():
            for metric in self._scoring.metrics:
                if metric.pooled and not pooled:
                    continue
                if metric.of_distributions and isinstance(predictions, Tensor):
                    continue
                scores[metric.name] = self._value(metric.compute, predictions, examples)
        return scores

    @property
    def measures(self) -> tuple[Measure, ...]:
        """How to read the scores: the loss, then the metrics."""
        return self._scoring.measures

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
        """Set the logits of classes that a task does not have to −∞."""
        if self.ways is None or not isinstance(predictions, Tensor | Categorical):
            return predictions
        logits = predictions if isinstance(predictions, Tensor) else predictions.logits
        classes = torch.arange(logits.shape[-1], device=logits.device)
        within = logits.masked_fill(classes >= self.ways[:, None, None], -torch.inf)
        return within if isinstance(predictions, Tensor) else Categorical(logits=within)


class TaskSource(Protocol):
    """A source of tasks (`data=`): its episodes, and the facts that models and learners need.

    Attributes:
        loss: the loss of predictions for its tasks.
        metrics: reported besides the loss; the first selects the best learner.
        input_shape: shape of one example.
        output_size: number of model outputs; None: the model returns embeddings, not predictions.

    A source may also have these attributes: `targets`; `training_output_size`, if training tasks have another
    number of classes; `trains_on`, if training tasks are not episodes; `for_tests`, if the source has no
    training tasks; and `may_lack_classes`, if a support set may lack a class of its task.
    """

    loss: Loss
    metrics: tuple[Metric, ...]
    input_shape: tuple[int, ...]
    output_size: int | None

    def prepare(self, device: torch.device) -> None:
        """Read or download the data, and keep it on the device."""

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1: same arguments, same bits."""


def targets_of(source: TaskSource) -> Targets:
    """Return the kind of a source's targets: its `targets` if it has them, else derived from its loss."""
    of_loss: dict[Loss, Targets] = {cross_entropy: "classes", binary_cross_entropy: "binary"}
    said: Targets = getattr(source, "targets", None) or of_loss.get(source.loss, "values")
    return said


def output_size(source: TaskSource, split: Split) -> int | None:
    """Return the number of model outputs for the tasks of a split."""
    size: int | None = source.output_size
    return getattr(source, "training_output_size", size) if split == "train" else size


def trains_on(source: TaskSource) -> TrainsOn:
    """Return the kind of a source's training tasks."""
    kind: TrainsOn = getattr(source, "trains_on", "episodes")
    return kind
