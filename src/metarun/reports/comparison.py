"""The table of a comparison."""

from __future__ import annotations

import math

from tabulate import tabulate

from metarun.evaluation.comparison import Comparison, Pair
from metarun.evaluation.statistics import LEVEL
from metarun.reports.table import cell, heading

_MOST_PAIRS = 45


def comparison_table(found: Comparison) -> str:
    """Return the scores of all sides, and what is known of their differences."""
    names = _numbers(len(found.sides))
    several = any(len(side.tests) > 1 for side in found.sides)
    heads = ["", "", *(["seeds"] if several else []), heading(found.measure)]
    rows = [
        [
            name,
            side.name,
            *([str(len(side.tests))] if several else []),
            cell(found.measure, estimate.mean, estimate.ci95),
        ]
        for name, side, estimate in zip(names, found.sides, found.estimates, strict=True)
    ]
    align = ["left", "left", *(["right"] if several else []), "right"]
    table = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=align)
    over = "seeds, where there are several, else over tasks" if several else "tasks"
    after = "" if found.step is None else f" after step {found.step}"
    title = f"test{after}: mean ± 95 % confidence interval over {over}"
    shown = found.pairs
    if len(shown) > _MOST_PAIRS:
        shown = [pair for pair in shown if pair.is_significant][:_MOST_PAIRS]
    left_out = len(found.pairs) - len(shown)
    lines = [title, table, "", differences_table(found, shown)]
    if left_out:
        lines.append(f"… and {left_out:,} more pairs; --json FILE has them all")
    return "\n".join([*lines, *_remarks(found)])


def differences_table(found: Comparison, pairs: list[Pair]) -> str:
    """Return a line for each pair."""
    names = _numbers(len(found.sides))
    unit = 100.0 if found.measure.percent else 1.0
    rows = [
        [
            f"{names[pair.first]} − {names[pair.second]}",
            _signed(unit * pair.difference.mean),
            f"[{_signed(unit * pair.difference.low)}, {_signed(unit * pair.difference.high)}]",
            p_value(pair.p),
            effect_size(pair.difference.effect),
            "significant" if pair.is_significant else "",
            f"{pair.difference.count:,} {'pairs' if pair.difference.paired else 'each, not paired'}",
        ]
        for pair in pairs
    ]
    points = " (points)" if found.measure.percent else ""
    heads = [f"difference of {found.measure.name}{points}", "", "95 % interval", "p", "effect", "", ""]
    align = ["left", "right", "left", "right", "right", "left", "left"]
    return tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=align)


def p_value(p: float) -> str:
    """Return a p value as people write it."""
    if math.isnan(p):
        return "–"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def effect_size(effect: float) -> str:
    """Return Cohen's d in a cell."""
    return "–" if math.isnan(effect) else f"{effect:+.2f}"


def _remarks(found: Comparison) -> list[str]:
    values = {"tasks": "tasks", "seeds": "the means of seeds"}[found.unit]
    lines = [
        f"p: Student's t-test over {values}, corrected for the number of pairs, {len(found.pairs)} (Holm); "
        f"below {LEVEL} it is significant. effect: Cohen's d."
    ]
    if any(not pair.difference.paired for pair in found.pairs):
        lines.append(f"Not paired: they have other {found.unit}; Welch's test.")
    return ["", *lines]


def _signed(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:+.4f}" if abs(value) < 1 else f"{value:+.2f}"


def _numbers(count: int) -> list[str]:
    """Return A, B, … or 1, 2, … for more than 26."""
    return [chr(ord("A") + i) if count <= 26 else str(i + 1) for i in range(count)]
