"""Losses and metrics: predictions [T, n, out] and targets to one value a task, [T]."""

from torch import Tensor
from torch.nn import functional as F

from metarun.errors import ConfigError


def _check_shapes(predictions: Tensor, targets: Tensor) -> None:
    """Raise ConfigError where torch would stretch one of them to the shape of the other, and be silent."""
    if predictions.shape != targets.shape:
        raise ConfigError(
            f"the model predicts {list(predictions.shape)}, and the targets are {list(targets.shape)}: both "
            f"should be [tasks, examples, outputs]"
        )


def mean_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    _check_shapes(predictions, targets)
    return (predictions - targets).square().flatten(1).mean(1)


def sum_squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Sum over examples and outputs of (prediction − target)²; targets [T, n, out]."""
    _check_shapes(predictions, targets)
    return (predictions - targets).square().flatten(1).sum(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of −log softmax(logits)[label], in nats; labels [T, n]."""
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return each.view(labels.shape).mean(1)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over examples of the logistic loss, in nats; logits [T, n, 1], labels [T, n] of 0 and 1."""
    targets = labels.to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits.squeeze(-1), targets, reduction="none").mean(1)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose largest logit is the label's; labels [T, n]."""
    return (logits.argmax(-1) == labels).to(logits.dtype).mean(1)


def binary_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share of examples whose single logit has the label's sign; logits [T, n, 1], labels [T, n]."""
    return ((logits.squeeze(-1) > 0) == labels.bool()).to(logits.dtype).mean(1)
