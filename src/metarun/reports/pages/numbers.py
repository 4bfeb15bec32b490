"""The numbers of a figure as a table, for people who cannot see it, and for spreadsheets."""

from __future__ import annotations

from functools import singledispatch

import torch

from metarun.figures import Bars, Figure, Histograms, Lines, Parallel, Pictures, Points, Surface

Table = tuple[list[str], list[list[str]]]
"""Heads and rows."""


@singledispatch
def numbers(figure: Figure) -> Table:
    """Return heads and rows of what a figure shows."""
    raise TypeError(f"a {type(figure).__name__} has no table of its numbers")


@numbers.register
def _lines(figure: Lines) -> Table:
    rows = []
    for label, line in figure.lines.items():
        bounds = [["", ""]] * len(line.x)
        if line.low is not None and line.high is not None:
            bounds = [[_text(low), _text(high)] for low, high in zip(line.low, line.high, strict=True)]
        for x, y, bound in zip(line.x, line.y, bounds, strict=True):
            rows.append([label.removeprefix("·"), _text(x), _text(y), *bound])
    return ["", figure.x_label, figure.y_label, "from", "to"], rows


@numbers.register
def _histograms(figure: Histograms) -> Table:
    shares = torch.tensor([0.0, 0.05, 0.5, 0.95, 1.0], dtype=torch.float64)
    rows = []
    for label, values in figure.values.items():
        finite = values.double()[values.isfinite()]
        cells = [_text(q) for q in finite.quantile(shares).tolist()] if len(finite) else ["–"] * 5
        rows.append([label, f"{len(values)}", *cells])
    return [figure.unit, "values", "least", "5 %", "median", "95 %", "largest"], rows


@numbers.register
def _surface(figure: Surface) -> Table:
    rows = [[label, *map(_text, row)] for label, row in zip(figure.rows, figure.values.tolist(), strict=True)]
    return [f"{figure.y_label} \\ {figure.x_label}", *figure.columns], rows


@numbers.register
def _points(figure: Points) -> Table:
    rows = [
        [label, kind, *map(_text, place)]
        for label, kind, place in zip(figure.labels, figure.kinds, figure.places.tolist(), strict=True)
    ]
    return ["", "kind", "first component", "second component"], rows


@numbers.register
def _parallel(figure: Parallel) -> Table:
    columns = [*figure.axes.values(), list(figure.scores)]
    rows = [
        [value if isinstance(value, str) else _text(value) for value in row]
        for row in zip(*columns, strict=True)
    ]
    return [*figure.axes, figure.unit], rows


@numbers.register
def _pictures(figure: Pictures) -> Table:
    words = {True: "right", False: "wrong", None: ""}
    rows = [
        [" / ".join(caption.splitlines()), words[good]]
        for caption, good in zip(figure.captions, figure.good, strict=True)
    ]
    return ["image", ""], rows


@numbers.register
def _bars(figure: Bars) -> Table:
    return ["", figure.unit], [[label, _text(value)] for label, value in figure.values.items()]


def _text(value: float) -> str:
    return f"{value:.6g}"
