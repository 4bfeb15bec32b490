"""Losses and metrics: map predictions and targets of T tasks to one value per task, [T].

Each takes a mask [T, n], False at padding examples, which do not count. Predictions are a tensor or a
`torch.distributions.Distribution`; where one value is needed, it is the distribution's mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution
from torch.nn import functional as F

from metarun.errors import ConfigError

Predictions = Tensor | Distribution
"""[T, n, out], or a distribution over targets of T × n examples."""

Loss = Callable[..., Tensor]
"""loss(predictions, targets) → one value per task, [T]; with padding loss(predictions, targets, mask)."""

Scores = dict[str, Tensor]
"""The loss and the metrics of each task, by name: [T]."""


@dataclass(frozen=True)
class Measure:
    """How to read a score.

    Attributes:
        name: the score's name.
        higher_is_better: whether larger values are better.
        percent: whether it is a fraction, shown in percent.
    """

    name: str
    higher_is_better: bool = False
    percent: bool = False


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A score computed besides the loss.

    Attributes:
        compute: called as a Loss; never differentiated.
    """

    compute: Loss


LOSS = Measure("loss")


@dataclass(frozen=True)
class Scoring:
    """The loss and the metrics of predictions.

    Attributes:
        loss: what learning minimises.
        metrics: reported besides the loss; the first selects the best learner; without any, the loss does.
    """

    loss: Loss
    metrics: tuple[Metric, ...] = ()

    @property
    def measures(self) -> tuple[Measure, ...]:
        """How to read the scores: the loss, then the metrics in order."""
        return (LOSS, *(Measure(m.name, m.higher_is_better, m.percent) for m in self.metrics))


def selected_by(measures: tuple[Measure, ...]) -> Measure:
    """Return the measure that selects the best learner: the first metric, or the loss without metrics."""
    return measures[1] if len(measures) > 1 else measures[0]


def mean_squared_error(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    errors = _errors(predictions, targets)
    return errors.flatten(1).mean(1) if mask is None else _masked_mean(errors.flatten(2).mean(2), mask)


def sum_squared_error(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    errors = _errors(predictions, targets).flatten(2)
    return errors.flatten(1).sum(1) if mask is None else (errors.sum(2) * mask).sum(1)


def cross_entropy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples of −log softmax(logits)[label], in nats; logits [T, n, classes], labels [T, n]."""
    logits = _logits(predictions)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return losses.mean(1) if mask is None else _masked_mean(losses, mask)


def binary_cross_entropy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples of the logistic loss, in nats; logits [T, n, 1], labels [T, n] of 0 and 1."""
    logits = _logits(predictions)
    targets = labels.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits.squeeze(-1), targets, reduction="none")
    return losses.mean(1) if mask is None else _masked_mean(losses, mask)


def accuracy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of examples whose largest logit is the label's; logits [T, n, classes], labels [T, n]."""
    logits = _logits(predictions)
    correct = (logits.argmax(-1) == labels).to(logits.dtype)
    return correct.mean(1) if mask is None else _masked_mean(correct, mask)


def binary_accuracy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of examples whose single logit has the label's sign; logits [T, n, 1], labels [T, n]."""
    logits = _logits(predictions)
    correct = ((logits.squeeze(-1) > 0) == labels.bool()).to(logits.dtype)
    return correct.mean(1) if mask is None else _masked_mean(correct, mask)


ACCURACY = Metric(name="accuracy", higher_is_better=True, percent=True, compute=accuracy)
BINARY_ACCURACY = Metric(name="accuracy", higher_is_better=True, percent=True, compute=binary_accuracy)


def _errors(predictions: Predictions, targets: Tensor) -> Tensor:
    """Return (prediction − target)² of each entry.

    Raises:
        ConfigError: their shapes differ, which torch would silently broadcast.
    """
    values: Any = predictions.mean if isinstance(predictions, Distribution) else predictions
    if values.shape != targets.shape:
        raise ConfigError(
            f"the model predicts {list(values.shape)}, but the targets are {list(targets.shape)}: both "
            f"should be [tasks, examples, outputs]"
        )
    errors: Tensor = (values - targets).square()
    return errors


def _logits(predictions: Predictions) -> Tensor:
    if isinstance(predictions, Tensor):
        return predictions
    if isinstance(predictions, Categorical | Bernoulli):
        logits: Tensor = predictions.logits
        return logits
    raise ConfigError(
        f"predictions are a {type(predictions).__name__}, but these targets are classes: expected logits, a "
        f"Categorical or a Bernoulli"
    )


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the examples [T, n] that count; 0 for a task without any."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp_min(1)
