"""Figures of how runs have learned, and of how their learners adapt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from metarun.evaluation.curve import Estimate
from metarun.figures import Figure, Line, Lines
from metarun.reports.pages.gathered import Record, SetUp, over_seeds

_MOST_CURVES, _MOST_BANDS = 12, 5
_SMOOTH = 25  # a curve is smoothed over a 25th of its points


def learning_curves(set_ups: Sequence[SetUp], of_data: str = "") -> list[Figure]:
    """Return the scores over meta-steps: of validation, and in training, smoothed; of one arena."""
    shown, left_out = _best(set_ups)
    if not shown:
        return []
    measure = shown[0].records[0].measure
    factor, unit = _unit(measure.name, percent=measure.percent)
    kinds = (
        ("validation", measure.name, f"Validation {measure.name}", factor, unit),
        ("train", measure.name, f"{measure.name.capitalize()} in training", factor, unit),
        *((("train", "loss", "Loss in training", 1.0, "loss"),) if measure.name != "loss" else ()),
    )
    figures: list[Figure] = []
    for split, name, title, by, label in kinds:
        lines = {}
        for set_up in shown:
            line = _over_steps(set_up.records, split, name, by, smooth=split == "train")
            if line is not None:
                lines[_legend(set_up)] = line
        if not lines:
            continue
        several = any(len(set_up.records) > 1 for set_up in shown)
        notes = [
            "After adaptation, on the query sets.",
            *(["Smoothed: each point is a mean over its neighbours."] if split == "train" else []),
            *(["Bands: the standard deviation over seeds."] if several else []),
            *([f"The best {len(shown)} of {len(shown) + left_out} set-ups."] if left_out else []),
        ]
        figures.append(
            Lines(
                name=f"{split}-{_slug(name)}",
                title=f"{title}{of_data}",
                caption=" ".join(notes),
                lines=lines,
                x_label="meta-step",
                y_label=label,
                source=_source(shown),
            )
        )
    return figures


def adaptation_curves(set_ups: Sequence[SetUp], of_data: str = "") -> list[Figure]:
    """Return the test scores over adaptation steps, or over numbers of support examples; of one arena."""
    shown, left_out = _best([s for s in set_ups if any(_has_curve(record) for record in s.records)])
    by_axis: dict[tuple[str, str], list[SetUp]] = {}
    for set_up in shown:
        curve = next(record.curve for record in set_up.records if record.curve is not None)
        by_axis.setdefault((str(curve.axis), set_up.records[0].measure.name), []).append(set_up)
    figures: list[Figure] = []
    for (axis, name), those in by_axis.items():
        measure = those[0].records[0].measure
        factor, unit = _unit(name, percent=measure.percent)
        lines, marked = {}, {}
        for set_up in those:
            line = _adapted(set_up.records, name, factor)
            lines[_legend(set_up)] = line if len(those) <= _MOST_BANDS else replace(line, low=None, high=None)
            trained = set_up.records[0].config.get("inner.steps")
            if axis == "adaptation steps" and isinstance(trained, int):
                marked[f"trained with {trained}"] = float(trained)
        notes = []
        if len(those) <= _MOST_BANDS:
            notes.append(
                "Bands: 95 % confidence intervals over test tasks, or over seeds where there are several."
            )
        if left_out:
            notes.append(f"The best {len(shown)} of {len(shown) + left_out} set-ups.")
        figures.append(
            Lines(
                name=f"test-{_slug(name)}-over-{_slug(axis)}",
                title=f"Test {name} over {axis}{of_data}",
                caption=" ".join(notes),
                lines=lines,
                x_label=axis,
                y_label=unit,
                marked=marked,
                source=_source(those),
            )
        )
    return figures


def _has_curve(record: Record) -> bool:
    return record.curve is not None and record.curve.axis is not None and len(record.curve.steps) > 1


def _adapted(records: Sequence[Record], name: str, factor: float) -> Line:
    """Return mean and interval after each step."""
    curves = [record.curve for record in records if record.curve is not None]
    numbers = min((curve.numbers for curve in curves), key=len)
    points: list[Estimate] = []
    for place in range(len(numbers)):
        one, *others = [curve.steps[place][name] for curve in curves]
        points.append(over_seeds([each.mean for each in (one, *others)]) if others else one)
    y = [factor * point.mean for point in points]
    spread = [0.0 if math.isnan(point.ci95) else factor * point.ci95 for point in points]
    low, high = ([a + sign * b for a, b in zip(y, spread, strict=True)] for sign in (-1, 1))
    return Line(numbers, y, low, high, dots=len(numbers) <= 20)


def _over_steps(
    records: Sequence[Record], split: str, name: str, factor: float, *, smooth: bool
) -> Line | None:
    """Return the mean over seeds of a score, and its spread, at the steps that all have."""
    runs: list[dict[int, float]] = []
    for record in records:
        rows = [row for row in record.metrics if row["split"] == split and row.get(name) is not None]
        steps, values = [int(row["step"]) for row in rows], [factor * float(row[name]) for row in rows]
        if steps:
            runs.append(dict(zip(steps, smoothed(values) if smooth else values, strict=True)))
    if not runs:
        return None
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    if not steps:
        return None
    table = torch.tensor([[run[step] for step in steps] for run in runs], dtype=torch.float64)
    mean = table.mean(0)
    if len(runs) == 1:
        return Line(steps, mean.tolist())
    spread = table.std(0)
    return Line(steps, mean.tolist(), (mean - spread).tolist(), (mean + spread).tolist())


def smoothed(values: Sequence[float]) -> list[float]:
    """Return centred means over a 25th of the values, fewer at the ends; NaN and infinity stay out."""
    reach = len(values) // (2 * _SMOOTH)
    result = []
    for place in range(len(values)):
        near = min(reach, place, len(values) - 1 - place)
        window = [v for v in values[place - near : place + near + 1] if math.isfinite(v)]
        result.append(sum(window) / len(window) if window else math.nan)
    return result


def _best(set_ups: Sequence[SetUp]) -> tuple[list[SetUp], int]:
    """Return the best set-ups by validation, in their own order, and how many are left out."""

    def goodness(set_up: SetUp) -> float:
        sign = 1 if set_up.records[0].measure.higher_is_better else -1
        best = [record.summary.best for record in set_up.records if record.summary.best is not None]
        return sign * sum(best) / len(best) if best else -math.inf

    kept = sorted(set_ups, key=goodness, reverse=True)[:_MOST_CURVES]
    return [set_up for set_up in set_ups if set_up in kept], len(set_ups) - len(kept)


def _legend(set_up: SetUp) -> str:
    return f"{set_up.name} ({len(set_up.records)} seeds)" if len(set_up.records) > 1 else set_up.name


def _unit(name: str, *, percent: bool) -> tuple[float, str]:
    return (100.0, f"{name} (%)") if percent else (1.0, name)


def _source(set_ups: Sequence[SetUp]) -> str:
    paths = [record.summary.path for set_up in set_ups for record in set_up.records]
    return ", ".join(paths) if len(paths) <= 6 else f"{', '.join(paths[:5])} and {len(paths) - 5} more"


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in text.lower()).strip("-") or "score"
