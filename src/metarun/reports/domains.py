"""The table of a run's tests on other datasets."""

from __future__ import annotations

from collections.abc import Sequence

from tabulate import tabulate

from metarun.evaluation.domains import Tested
from metarun.reports.table import cell, heading


def domains_table(tests: Sequence[Tested]) -> str:
    """Return a line for each dataset: its final scores, and what was done to its images."""
    measures = tests[0].curve.measures
    lines = []
    for test in tests:
        final = test.curve.final
        scores = [
            cell(m, final[m.name].mean, final[m.name].ci95) if m.name in final else "–" for m in measures
        ]
        lines.append([test.domain.typed, *scores, test.fitted])
    heads = ["test on", *(heading(m) for m in measures), "images"]
    alignment = ["left", *["right"] * len(measures), "left"]
    title = f"{tests[0].curve.tasks:,} tasks each, mean ± 95 % confidence interval"
    table = tabulate(lines, heads, tablefmt="simple", disable_numparse=True, colalign=alignment)
    return f"\ntest: {title}\n{table}"
