"""What a figure shows, as numbers: learners and reports make them, and `reports.plots` draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a leaf: it imports nothing
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    Attributes:
        name: for files, in lower case with hyphens.
        title: in a few words.
        caption: what it shows, in one sentence or two.
        source: the run that made it; empty: all runs on the page.
    """

    name: str
    title: str
    caption: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Histograms(Figure):
    """The distributions of several sets of values.

    Attributes:
        values: float [n] by label.
        unit: what the values are.
    """

    values: Mapping[str, Tensor]
    unit: str


@dataclass(frozen=True)
class Line:
    """A curve of a figure, with a band where there is one."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Lines(Figure):
    """Curves.

    Attributes:
        lines: by label.
        x_label: what x is.
        y_label: what y is.
        marked: values of x where vertical lines are.
        log_x: whether x is on a log scale.
        log_y: whether y is on a log scale.
    """

    lines: Mapping[str, Line]
    x_label: str
    y_label: str
    marked: Mapping[str, float] = field(default_factory=dict)
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True, kw_only=True)
class Surface(Figure):
    """Numbers of rows and columns, as colours.

    Attributes:
        values: float [rows, columns]; NaN: not known.
        rows: labels of rows.
        columns: labels of columns.
        x_label: what columns are.
        y_label: what rows are.
        unit: what the values are.
        diverging: whether 0 is in the middle of the colours.
    """

    values: Tensor
    rows: Sequence[str]
    columns: Sequence[str]
    x_label: str
    y_label: str
    unit: str
    diverging: bool = False


@dataclass(frozen=True, kw_only=True)
class Points(Figure):
    """Places in a plane.

    Attributes:
        places: float [n, 2].
        labels: of each, which are the colours.
        kinds: of each, which are the shapes.
    """

    places: Tensor
    labels: Sequence[str]
    kinds: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Pictures(Figure):
    """Images with captions.

    Attributes:
        images: [channels, height, width] from 0 to 1, of one or three channels.
        captions: of each.
        good: whether what the caption says is right; None: it is neither.
    """

    images: Sequence[Tensor]
    captions: Sequence[str]
    good: Sequence[bool | None]


@dataclass(frozen=True, kw_only=True)
class Parallel(Figure):
    """Runs as lines over axes, one for each parameter, and the last for their score.

    Attributes:
        axes: the value of each run, by parameter.
        scores: of the runs.
        unit: what the scores are.
        higher_is_better: whether larger scores are better.
    """

    axes: Mapping[str, Sequence[str | float]]
    scores: Sequence[float]
    unit: str
    higher_is_better: bool


@dataclass(frozen=True, kw_only=True)
class Bars(Figure):
    """A number for each label.

    Attributes:
        values: by label.
        unit: what they are.
    """

    values: Mapping[str, float]
    unit: str
