"""Differences between tests: intervals, p values, effect sizes, and their correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from metarun.errors import MetarunError

LEVEL = 0.05
"""Differences with a smaller corrected p are called significant."""


def _scipy() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MetarunError("comparisons need SciPy: pip install 'metarun[report]'") from error
    return stats


@dataclass(frozen=True)
class Difference:
    """The difference of two means.

    Attributes:
        mean: of the first minus that of the second.
        low: lower end of its 95 % confidence interval.
        high: upper end.
        p: of Student's t-test of no difference, two-sided; of Welch's where they are not paired.
        effect: Cohen's d: the mean difference in standard deviations of the differences; where they are not
            paired, in the root mean square of both standard deviations.
        paired: whether both were measured on the same things.
        count: of pairs, or of the smaller sample.
    """

    mean: float
    low: float
    high: float
    p: float
    effect: float
    paired: bool
    count: int


def difference(first: Tensor, second: Tensor, *, paired: bool) -> Difference:
    """Return the difference of the means of two samples [n] and [m]; paired: of equal length, in one order.

    With fewer than two values, or values that are not finite, all but the mean is NaN.

    Raises:
        MetarunError: SciPy is not installed.
    """
    stats = _scipy()
    first, second = first.double(), second.double()
    count = min(len(first), len(second))
    mean = float(first.mean() - second.mean())
    nothing = Difference(mean, math.nan, math.nan, math.nan, math.nan, paired, count)
    if count < 2 or not (first.isfinite().all() and second.isfinite().all()):
        return nothing
    if paired:
        each = first - second
        mean, spread = float(each.mean()), float(each.std())
    else:
        spread = math.sqrt(float(first.var() + second.var()) / 2)
    if spread <= 1e-12 * abs(mean):  # the test divides by it: all values are alike
        effect = math.copysign(math.inf, mean) if mean else 0.0
        return Difference(mean, mean, mean, 0.0 if mean else 1.0, effect, paired, count)
    samples = first.numpy(), second.numpy()
    found = stats.ttest_rel(*samples) if paired else stats.ttest_ind(*samples, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return Difference(mean, float(low), float(high), float(found.pvalue), mean / spread, paired, count)


def interval(values: Tensor) -> float:
    """Return the half-width of Student's 95 % confidence interval of a mean, of values [n]; one: NaN.

    Raises:
        MetarunError: SciPy is not installed.
    """
    if len(values) < 2:
        return math.nan
    quantile = float(_scipy().t.ppf(0.975, len(values) - 1))
    return quantile * float(values.double().std()) / math.sqrt(len(values))


def holm(ps: Sequence[float]) -> list[float]:
    """Return p values such that any false one below α has probability α or less (Holm 1979).

    The i-th smallest of m is multiplied by m − i + 1, and none is smaller than one before it; NaN is passed
    over.
    """
    order = sorted((index for index, p in enumerate(ps) if not math.isnan(p)), key=lambda index: ps[index])
    corrected, largest = list(ps), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * ps[index]))
        corrected[index] = largest
    return corrected
