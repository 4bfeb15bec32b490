"""The metrics of all regression tasks: squared error, negative log-likelihood and interval coverage."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution

from metarun.errors import ConfigError
from metarun.tasks.metrics import Metric, Predictions, masked_mean, mean_squared_error

_OUTSIDE = 0.025  # probability outside a 95 % interval on either side


def negative_log_likelihood(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over examples of −log p(target), in nats, summed over outputs; targets [T, n, out].

    Raises:
        ConfigError: predictions are not a distribution over targets of this shape.
    """
    losses = -_distribution(predictions, targets).log_prob(targets).flatten(2).sum(2)
    return losses.mean(1) if mask is None else masked_mean(losses, mask)


def coverage(predictions: Predictions, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Fraction of targets inside the central 95 % interval of their predicted distribution.

    A target is inside if the predicted distribution function at the target is between 0.025 and 0.975.
    """
    below = _distribution(predictions, targets).cdf(targets)
    inside = ((below >= _OUTSIDE) & (below <= 1 - _OUTSIDE)).to(targets.dtype).flatten(2).mean(2)
    return inside.mean(1) if mask is None else masked_mean(inside, mask)


def _distribution(predictions: Predictions, targets: Tensor) -> Distribution:
    if isinstance(predictions, Distribution) and predictions.batch_shape == targets.shape:
        return predictions
    kind = type(predictions).__name__
    shape = list(predictions.shape if isinstance(predictions, Tensor) else predictions.batch_shape)
    raise ConfigError(
        f"predictions are a {kind} {shape}, and the targets are {list(targets.shape)}: expected a "
        f"distribution over each of them"
    )


MSE = Metric(name="mse", compute=mean_squared_error, selects=False)
NLL = Metric(name="nll", compute=negative_log_likelihood, of_distributions=True, selects=False)
COVERAGE = Metric(
    name="coverage",
    compute=coverage,
    higher_is_better=True,
    percent=True,
    of_distributions=True,
    selects=False,
)

REGRESSION = (MSE, NLL, COVERAGE)
"""Mean square error, negative log-likelihood of a target, coverage of the 95 % interval."""
