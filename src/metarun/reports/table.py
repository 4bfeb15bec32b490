"""The table at the end of a run, and the format of its cells, which other tables share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from tabulate import tabulate

from metarun.evaluation.curve import Curve, Estimate
from metarun.tasks import Measure
from metarun.tasks.metrics import LOSS

# Tables show a long curve at these steps and at the last.
_SHOWN = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


def curve_table(curve: Curve) -> str:
    """Return mean ± 95 % confidence interval before adaptation and after steps 1, 2, …, if there are any."""
    shown = shown_steps(len(curve.steps) - 1, range(len(curve.steps)) if curve.at else _SHOWN)
    measures = worth_showing(curve.measures, means_of(curve.steps))
    rows = [[str(curve.numbers[step]), *_estimates(measures, curve.steps[step])] for step in shown]
    heads = [curve.axis or "", *(heading(measure) for measure in measures)]
    if curve.axis is None:
        rows, heads = [row[1:] for row in rows], heads[1:]
    title = f"{curve.split}: {curve.tasks:,} tasks, mean ± 95 % confidence interval"
    if curve.transductive is not None:
        title += "; transductive" if curve.transductive else "; not transductive"
    table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=["right"] * len(heads))
    return f"{title}\n{table}{not_finite(curve)}"


def shown_steps(last: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted steps up to the last, and the last."""
    return [step for step in range(last + 1) if step in wanted or step == last]


def worth_showing(measures: Sequence[Measure], column: Callable[[Measure], Sequence[float]]) -> list[Measure]:
    """Return the measures that have values, without those that are the loss under another name.

    Args:
        measures: the loss, then the metrics.
        column: returns a measure's values, NaN where there is none.
    """
    loss = list(column(LOSS))

    def shown(values: Sequence[float]) -> bool:
        return not all(math.isnan(value) for value in values) and list(values) != loss

    return [measure for measure in measures if measure == LOSS or shown(column(measure))]


def means_of(rows: Sequence[Mapping[str, Estimate]]) -> Callable[[Measure], list[float]]:
    """Return the column of a measure's means in rows of scores by name."""
    return lambda m: [row[m.name].mean if m.name in row else math.nan for row in rows]


def _estimates(measures: Sequence[Measure], scores: Mapping[str, Estimate]) -> list[str]:
    return [cell(m, scores[m.name].mean, scores[m.name].ci95) for m in measures]


def heading(measure: Measure) -> str:
    """Return the head of a score's column."""
    return f"{measure.name} (%)" if measure.percent else measure.name


def cell(measure: Measure, mean: float, spread: float) -> str:
    """Return mean ± spread of a score, or the mean alone if there is no spread."""
    numbers = [mean] if math.isnan(spread) else [mean, spread]
    if measure.percent:
        return " ± ".join(f"{100 * number:.2f}" for number in numbers)
    # Written out, a diverged loss would fill half a screen.
    return " ± ".join(f"{number:.4f}" if abs(number) < 1e6 else f"{number:.3g}" for number in numbers)


def not_finite(curve: Curve) -> str:
    """Return a line that says from which step on the loss is not finite, or an empty text."""
    first = next((k for k, scores in enumerate(curve.steps) if not math.isfinite(scores["loss"].mean)), None)
    if first is None:
        return ""
    advice = "" if curve.axis is None else ": type fewer inner.test_steps or a smaller inner.lr"
    return f"\nthe loss is NaN or infinite from step {first} on{advice}"
