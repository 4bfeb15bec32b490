"""The table at the end of a run, and what its cells and those of other tables look like."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tabulate import tabulate

from metarun.evaluation.curve import Curve, Estimate, is_share

# Long curves are shown at these steps and at the last.
_SHOWN = (0, 1, 2, 3, 4, 5, 10, 20, 50, 100, 200, 500, 1000)


def curve_table(curve: Curve) -> str:
    """Return mean ± 95 % confidence interval before adaptation and after steps 1, 2, …."""
    shown = shown_steps(len(curve.steps) - 1, _SHOWN)
    names = list(curve.final)
    rows = [[str(step), *(_estimate(name, curve.steps[step][name]) for name in names)] for step in shown]
    heads = ["adaptation steps", *(heading(name) for name in names)]
    title = f"{curve.split}: {curve.tasks:,} tasks, mean ± 95 % confidence interval"
    table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=["right"] * len(heads))
    return f"{title}\n{table}{not_finite(curve)}"


def shown_steps(last: int, wanted: Sequence[int]) -> list[int]:
    """Return the wanted steps that there are, and the last."""
    return [step for step in range(last + 1) if step in wanted or step == last]


def _estimate(name: str, estimate: Estimate) -> str:
    return cell(name, estimate.mean, estimate.ci95)


def heading(name: str) -> str:
    """Return the head of a score's column."""
    return f"{name} (%)" if is_share(name) else name


def cell(name: str, mean: float, spread: float) -> str:
    """Return mean ± spread of a score; shares in percent, and one value alone without a spread."""
    numbers = [mean] if math.isnan(spread) else [mean, spread]
    if is_share(name):
        return " ± ".join(f"{100 * number:.2f}" for number in numbers)
    # A loss that has grown beyond all bounds would take up half a screen.
    return " ± ".join(f"{number:.4f}" if abs(number) < 1e6 else f"{number:.3g}" for number in numbers)


def not_finite(curve: Curve) -> str:
    """Return from which step on a loss is no number, in a line of its own, or nothing."""
    first = next((k for k, scores in enumerate(curve.steps) if not math.isfinite(scores["loss"].mean)), None)
    if first is None:
        return ""
    return f"\nfrom step {first} on the loss is no number: the adaptation diverges; fewer steps do not"
