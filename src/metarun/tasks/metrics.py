"""Losses and metrics: map predictions and targets of T tasks to one value per task, [T].

All losses and metrics take a mask [T, n], False at padding examples, which do not count. Predictions are a
tensor or a `torch.distributions.Distribution`; metrics of point predictions use its mean.
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
        selects: whether it may select the best learner.
    """

    name: str
    higher_is_better: bool = False
    percent: bool = False
    selects: bool = True


@dataclass(frozen=True, kw_only=True)
class Metric(Measure):
    """A score computed besides the loss.

    Attributes:
        compute: called as a Loss; never differentiated.
        pooled: whether the score is a property of all tasks together: `compute` returns signed parts,
            [T, parts], and the score is Σ over parts of |mean over tasks|. For tests only.
        of_distributions: whether the metric is defined only if predictions are a distribution.
    """

    compute: Loss
    pooled: bool = False
    of_distributions: bool = False


LOSS = Measure("loss")


@dataclass(frozen=True)
class Scoring:
    """The loss and the metrics of predictions.

    Attributes:
        loss: what learning minimises.
        query_loss: what the outer loop minimises, on query sets; None: `loss`.
        metrics: metrics that are reported besides the loss. The first metric with `selects` selects the best
            learner; without such a metric, the loss does.
    """

    loss: Loss
    metrics: tuple[Metric, ...] = ()
    query_loss: Loss | None = None

    @property
    def measures(self) -> tuple[Measure, ...]:
        """How to read the scores: the loss, then the metrics in order."""
        return (LOSS, *(Measure(m.name, m.higher_is_better, m.percent, m.selects) for m in self.metrics))


def selected_by(measures: tuple[Measure, ...]) -> Measure:
    """Return the measure that selects the best learner: the first metric with `selects`, else the loss."""
    return next((measure for measure in measures[1:] if measure.selects), measures[0])


def mean_squared_error(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    errors = _errors(predictions, targets)
    return errors.flatten(1).mean(1) if mask is None else masked_mean(errors.flatten(2).mean(2), mask)


def sum_squared_error(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    errors = _errors(predictions, targets).flatten(2)
    return errors.flatten(1).sum(1) if mask is None else (errors.sum(2) * mask).sum(1)


def cross_entropy(
    predictions: Predictions, labels: Tensor, mask: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Mean over examples of −log softmax(logits)[label], in nats; logits [T, n, classes], labels [T, n].

    Labels may also be the shares of the classes, [T, n, classes], as of mixed images.

    With a smoothing ε, the target is 1 − ε at the label plus ε / classes at every class (Szegedy et al. 2016,
    arXiv:1512.00567, section 7).
    """
    logits = _logits(predictions).flatten(0, 1)
    losses = F.cross_entropy(logits, labels.flatten(0, 1), reduction="none", label_smoothing=smoothing)
    losses = losses.view(labels.shape[:2])
    return losses.mean(1) if mask is None else masked_mean(losses, mask)


def binary_cross_entropy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples of the logistic loss, in nats; logits [T, n, 1], labels [T, n] of 0 and 1."""
    logits = _logits(predictions)
    targets = labels.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits.squeeze(-1), targets, reduction="none")
    return losses.mean(1) if mask is None else masked_mean(losses, mask)


def accuracy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of examples whose largest logit is the label's; logits [T, n, classes], labels [T, n].

    If labels are shares of the classes, [T, n, classes], the class with the largest share is the label.
    """
    logits = _logits(predictions)
    correct = (logits.argmax(-1) == _largest(labels)).to(logits.dtype)
    return correct.mean(1) if mask is None else masked_mean(correct, mask)


def binary_accuracy(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of examples whose single logit has the label's sign; logits [T, n, 1], labels [T, n]."""
    logits = _logits(predictions)
    correct = ((logits.squeeze(-1) > 0) == labels.bool()).to(logits.dtype)
    return correct.mean(1) if mask is None else masked_mean(correct, mask)


_BINS = 15


def calibration_gaps(predictions: Predictions, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """Parts of the expected calibration error: confidence minus accuracy in each of 15 bins, [T, 15].

    Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599, equation 3: a bin's gap is weighted by its share of
    the examples. The few examples of one task would overestimate the error, so the gaps of all tasks are
    pooled.
    """
    confidence, predicted = _logits(predictions).softmax(-1).max(-1)
    gaps = confidence - (predicted == _largest(labels)).to(confidence.dtype)
    bins = (confidence * _BINS).ceil().long().clamp(1, _BINS) - 1
    count: Tensor | int = gaps.shape[1]
    if mask is not None:
        gaps, count = gaps.masked_fill(~mask, 0.0), mask.sum(1, keepdim=True).clamp_min(1)
    return gaps.new_zeros(len(gaps), _BINS).scatter_add(1, bins, gaps) / count


ACCURACY = Metric(name="accuracy", higher_is_better=True, percent=True, compute=accuracy)
CALIBRATION_ERROR = Metric(name="ece", percent=True, compute=calibration_gaps, pooled=True)
BINARY_ACCURACY = Metric(name="accuracy", higher_is_better=True, percent=True, compute=binary_accuracy)


def _errors(predictions: Predictions, targets: Tensor) -> Tensor:
    """Return (prediction − target)² of each entry.

    Raises:
        ConfigError: the shapes differ, which torch would silently broadcast.
    """
    values: Any = predictions.mean if isinstance(predictions, Distribution) else predictions
    if values.shape != targets.shape:
        raise ConfigError(
            f"the model predicts {list(values.shape)}, but the targets are {list(targets.shape)}: both "
            f"should be [tasks, examples, outputs]"
        )
    errors: Tensor = (values - targets).square()
    return errors


def _largest(labels: Tensor) -> Tensor:
    """Return labels [T, n]; shares of the classes, [T, n, classes], become the class of the largest share."""
    return labels.argmax(-1) if labels.is_floating_point() and labels.dim() == 3 else labels


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


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the examples [T, n] that count; 0 for a task without any."""
    return values.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp_min(1)
