"""Draws figures with matplotlib: as SVG whose colours a page may choose, and as SVG and PNG files."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np

from metarun.errors import MetarunError
from metarun.figures import Bars, Figure, Histograms, Line, Lines, Parallel, Pictures, Points, Surface

_INK, _FAINT = "#1b1b1f", "#b9b9c2"
# Okabe & Ito's colours, darkened to be told apart on white and on black (blue, orange, green, …).
SERIES = ("#2f6fb7", "#c8641b", "#2b8a62", "#a5468c", "#8a7a1e", "#3b8fa8", "#b03a48", "#6d5bb5")
ON_DARK = ("#6fa8e6", "#f09a55", "#5cc39a", "#d98bc6", "#cdbb5a", "#74c4dc", "#ef7d8a", "#a99bf0")
"""The same on black."""

_DASHES = ("-", "--", ":", "-.")
_METADATA = ("Date", "Creator", "Format", "Type")  # which matplotlib would write
_SHAPES = ("o", "x", "s", "^", "v", "D")
_MOST_TICKS = 24
_WIDTH = 5.6  # inches

VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    **{colour: f"var(--c{number})" for number, colour in enumerate(SERIES)},
}
"""What stands in a page for the colours that depend on light and dark."""


def drawn(figure: Figure) -> Any:
    """Return a figure of matplotlib.

    Raises:
        MetarunError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise MetarunError("figures need matplotlib: pip install 'metarun[report]'") from error
    canvas = Canvas(figsize=_size(figure), layout="constrained")
    canvas.patch.set_alpha(0)
    _draw(figure, canvas)
    return canvas


def as_svg(canvas: Any, name: str) -> str:
    """Return an SVG with its texts as texts; `name` makes the ids in it differ from those of others."""
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif"}):
        canvas.savefig(file, format="svg", metadata=dict.fromkeys(_METADATA))
    text = file.getvalue()
    return text[text.index("<svg") :]


def as_png(canvas: Any) -> bytes:
    """Return a PNG, on white."""
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def _size(figure: Figure) -> tuple[float, float]:
    if isinstance(figure, Pictures):
        columns = min(_COLUMNS, max(1, len(figure.images)))
        rows = -(-len(figure.images) // columns)
        return _WIDTH, 0.3 + _WIDTH / _COLUMNS * 1.4 * rows
    if isinstance(figure, Lines | Points):
        return _WIDTH, 3.5 + (0 if _entries(figure) <= 4 else 0.1 * _entries(figure))
    if isinstance(figure, Bars):
        return _WIDTH, 0.9 + 0.35 * len(figure.values)
    if isinstance(figure, Histograms):
        return _WIDTH, 0.9 + 0.42 * len(figure.values)
    if isinstance(figure, Surface):
        return _WIDTH, min(9.0, max(3.2, 1.4 + 0.26 * len(figure.rows)))
    return _WIDTH, 3.5


def _entries(figure: Lines | Points) -> int:
    """Return how many entries its legend has."""
    if isinstance(figure, Lines):
        return sum(bool(label) for label in figure.lines)
    return len(set(figure.labels)) + len(set(figure.kinds))


@singledispatch
def _draw(figure: Figure, canvas: Any) -> None:  # noqa: ARG001
    raise TypeError(f"a {type(figure).__name__} has no drawing")


def _panel(canvas: Any, x_label: str = "", y_label: str = "") -> Any:
    panel = canvas.subplots()
    panel.patch.set_alpha(0)
    _plain(panel)
    panel.set_xlabel(x_label, color=_INK)
    panel.set_ylabel(y_label, color=_INK)
    return panel


def _plain(panel: Any) -> None:
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_FAINT)
    panel.tick_params(colors=_INK, labelsize=9)
    panel.tick_params(which="both", color=_FAINT)


def _legend(panel: Any, count: int) -> None:
    """Add a legend: inside where it is short, else below."""
    look: dict[str, Any] = {"frameon": False, "fontsize": 8, "labelcolor": _INK}
    if 0 < count <= 4:
        panel.legend(**look)
    elif count:
        panel.figure.legend(loc="outside lower center", ncols=2, **look)


def style(number: int) -> dict[str, Any]:
    """Return colour and dashes of the curve of this number: no two of 32 are alike."""
    dashes = _DASHES[number // len(SERIES) % len(_DASHES)]
    return {"color": SERIES[number % len(SERIES)], "linestyle": dashes}


@_draw.register
def _lines(figure: Lines, canvas: Any) -> None:
    panel = _panel(canvas, figure.x_label, figure.y_label)
    for number, (label, line) in enumerate(figure.lines.items()):
        _line(panel, line, label, style(number))
    for label, x in figure.marked.items():
        panel.axvline(x, color=_FAINT, linestyle="--", linewidth=1)
        panel.annotate(
            label,
            (x, 1),
            (3, -2),
            ("data", "axes fraction"),
            "offset points",
            color=_INK,
            fontsize=8,
            va="top",
        )
    if figure.log_x:
        panel.set_xscale("log")
    elif all(float(x).is_integer() for line in figure.lines.values() for x in line.x):
        panel.xaxis.get_major_locator().set_params(integer=True)
    if figure.log_y:
        panel.set_yscale("log")
    _legend(panel, _entries(figure))


def _line(panel: Any, line: Line, label: str, look: dict[str, Any]) -> None:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, float), np.asarray(line.high, float)
        panel.fill_between(x, low, high, color=look["color"], alpha=0.18, linewidth=0)
    one = len(x) == 1
    marker = "o" if line.dots or one else None
    if line.dots and label.startswith("·"):  # points alone
        panel.plot(x, y, label=label[1:], linestyle="", marker="o", markersize=5, color=look["color"])
        return
    panel.plot(x, y, label=label or None, linewidth=1.6, marker=marker, markersize=4, **look)


@_draw.register
def _histograms(figure: Histograms, canvas: Any) -> None:
    panel = _panel(canvas, figure.unit)
    parts = {label: values.double().numpy() for label, values in figure.values.items()}
    parts = {label: values[np.isfinite(values)] for label, values in parts.items()}
    whole = np.concatenate([*parts.values(), np.zeros(0)])
    low, high = (float(whole.min()), float(whole.max())) if len(whole) else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 61)
    names = list(parts)
    for row, label in enumerate(names):
        counts, _ = np.histogram(parts[label], edges)
        heights = 0.85 * counts / max(1, counts.max())
        base = len(names) - 1 - row
        panel.fill_between(
            edges[:-1], base, base + heights, step="post", color=SERIES[0], alpha=0.75, linewidth=0
        )
    if low < 0 < high:
        panel.axvline(0, color=_FAINT, linewidth=1)
    panel.set_yticks(range(len(names)), [_short(name) for name in reversed(names)], fontsize=8, color=_INK)
    panel.set_ylim(-0.05, len(names))


@_draw.register
def _bars(figure: Bars, canvas: Any) -> None:
    panel = _panel(canvas, figure.unit)
    names = list(figure.values)
    panel.barh(range(len(names)), list(figure.values.values()), color=SERIES[0], height=0.6)
    panel.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=9, color=_INK)
    panel.invert_yaxis()


@_draw.register
def _surface(figure: Surface, canvas: Any) -> None:
    panel = _panel(canvas, figure.x_label, figure.y_label)
    values = figure.values.double().numpy()
    finite = values[np.isfinite(values)]
    limits: dict[str, Any] = {}
    if figure.diverging and len(finite):
        most = float(np.abs(finite).max()) or 1.0
        limits = {"vmin": -most, "vmax": most}
    colours = "PuOr" if figure.diverging else "viridis"
    image = panel.imshow(values, aspect="auto", cmap=colours, interpolation="nearest", **limits)
    for axis, labels in ((panel.xaxis, figure.columns), (panel.yaxis, figure.rows)):
        every = max(1, -(-len(labels) // _MOST_TICKS))
        places = range(0, len(labels), every)
        axis.set_ticks(places, [_short(labels[place]) for place in places], fontsize=8, color=_INK)
    if max((len(label) for label in figure.columns), default=0) > 3:
        for text in panel.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    if values.size <= 100:
        shade = image.norm(values)
        for (row, column), value in np.ndenumerate(values):
            if math.isfinite(value):
                on_dark = (
                    shade[row, column] < 0.6 if not figure.diverging else abs(shade[row, column] - 0.5) > 0.35
                )
                panel.text(
                    column,
                    row,
                    f"{value:.3g}",
                    ha="center",
                    va="center",
                    fontsize=8,
                    color="white" if on_dark else "black",
                )
    bar = canvas.colorbar(image, ax=panel, shrink=0.9)
    bar.set_label(figure.unit, color=_INK)
    bar.ax.tick_params(colors=_INK, labelsize=8)
    bar.outline.set_visible(False)


@_draw.register
def _points(figure: Points, canvas: Any) -> None:
    panel = _panel(canvas, "first component", "second component")
    places = figure.places.double().numpy()
    labels, kinds = sorted(set(figure.labels)), list(dict.fromkeys(figure.kinds))
    for number, label in enumerate(labels):
        for shape, kind in zip(_SHAPES, kinds, strict=False):
            own = [a == label and b == kind for a, b in zip(figure.labels, figure.kinds, strict=True)]
            if any(own):
                colour, size = SERIES[number % len(SERIES)], 60 if kind.startswith("mean") else 22
                panel.scatter(*places[own].T, s=size, marker=shape, color=colour, alpha=0.85, linewidths=1.2)
    for number, label in enumerate(labels[: len(SERIES)]):
        panel.scatter([], [], s=22, color=SERIES[number], label=label or "examples")
    for shape, kind in zip(_SHAPES, kinds, strict=False):
        panel.scatter([], [], s=22, marker=shape, color=_INK, label=kind)
    _legend(panel, _entries(figure))


@_draw.register
def _parallel(figure: Parallel, canvas: Any) -> None:
    panel = _panel(canvas)
    panel.spines["left"].set_visible(False)
    names = [*figure.axes, figure.unit]
    scores = np.asarray(figure.scores, float)
    heights = [_placed(values) for values in (*figure.axes.values(), [float(s) for s in scores])]
    order = np.argsort(-scores if not figure.higher_is_better else scores)
    import matplotlib as mpl

    colours = mpl.colormaps["viridis"]
    span = max(1, len(scores) - 1)
    for rank, run in enumerate(order):
        ys = [places[run] for places, _ in heights]
        panel.plot(range(len(names)), ys, color=colours(0.95 * rank / span), linewidth=1.2, alpha=0.8)
    for x, (_, ticks) in enumerate(heights):
        panel.axvline(x, color=_FAINT, linewidth=1)
        for y, text in ticks:
            panel.annotate(
                text, (x, y), (3, 0), textcoords="offset points", fontsize=8, color=_INK, va="center"
            )
    panel.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=9, color=_INK)
    panel.set_yticks([])
    panel.set_xlim(-0.05, len(names) - 0.6)


def _placed(values: Sequence[str | float]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the places of values on an axis from 0 to 1, and its ticks; texts in their order."""
    if all(isinstance(value, float) for value in values):
        numbers = [float(value) for value in values]
        low, high = min(numbers), max(numbers)
        use_log = low > 0 and high / low > 50
        place: Callable[[float], float] = math.log if use_log else float
        span = (place(high) - place(low)) or 1.0
        return [(place(n) - place(low)) / span for n in numbers], [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    texts = list(dict.fromkeys(str(value) for value in values))
    step = 1 / max(1, len(texts) - 1)
    return [texts.index(str(v)) * step for v in values], [(i * step, _short(t)) for i, t in enumerate(texts)]


_COLUMNS = 6


@_draw.register
def _pictures(figure: Pictures, canvas: Any) -> None:
    columns = min(_COLUMNS, max(1, len(figure.images)))
    rows = -(-len(figure.images) // columns)
    panels = canvas.subplots(rows, _COLUMNS, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    for number, (image, caption, good) in enumerate(
        zip(figure.images, figure.captions, figure.good, strict=True)
    ):
        panel = panels[number // columns * _COLUMNS + number % columns]
        pixels = image.detach().float().clamp(0, 1).cpu().numpy()
        panel.imshow(
            pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0), cmap="gray", vmin=0, vmax=1
        )
        colour = {None: _INK, True: SERIES[2], False: SERIES[6]}[good]
        text = "\n".join(_short(line, 16) for line in caption.splitlines())
        panel.set_title(text, fontsize=7.5, color=colour, pad=2)


def _short(text: str, most: int = 28) -> str:
    text = text.replace("$", r"\$")  # which matplotlib would read as mathematics
    return text if len(text) <= most else f"{text[: most - 1]}…"
