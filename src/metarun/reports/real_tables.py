"""The table of a run's learner beside classical models on real tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from tabulate import tabulate

from metarun.evaluation.real_tables import Row
from metarun.reports.table import cell
from metarun.tasks.metrics import Measure


def real_tables(rows: Sequence[Row], halves: int) -> str:
    """Return a line for each predictor: its score on each table, and the mean over the tables."""
    first = next(iter(rows[0].curves.values()))
    measure = Measure("mse") if first.measures[1].name == "mse" else first.measures[1]
    lines = []
    for row in rows:
        finals = [curve.final[measure.name] for curve in row.curves.values()]
        mean = cell(measure, fmean(final.mean for final in finals), float("nan"))
        lines.append([row.name, *(cell(measure, final.mean, final.ci95) for final in finals), mean])
    heads = ["", *(name.replace("_", " ") for name in rows[0].curves), "mean"]
    unit = "accuracy (%)" if measure.percent else "mean square error, of standardised values"
    title = f"test: {unit}, {halves} random halves of each table, mean ± 95 % confidence interval"
    alignment = ["left", *["right"] * (len(heads) - 1)]
    return f"{title}\n{tabulate(lines, heads, tablefmt='simple', disable_numparse=True, colalign=alignment)}"
