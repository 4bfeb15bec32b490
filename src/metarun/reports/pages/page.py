"""One self-contained HTML page of sections, tables and figures, and the figures as files beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metarun import __version__
from metarun.errors import MetarunError
from metarun.figures import Figure
from metarun.reports.pages.numbers import numbers
from metarun.reports.plots import ON_DARK, SERIES, VARIABLES, as_png, as_svg, drawn
from metarun.system.files import replace, write_text

_MOST_ROWS = 400  # of the numbers of a figure


@dataclass(frozen=True)
class Table:
    """A table of a section.

    Attributes:
        title: what it is, for screen readers.
        heads: of the columns.
        rows: texts.
        numeric: places of the columns with numbers.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: frozenset[int] = frozenset()


@dataclass
class Section:
    """A part of the page."""

    name: str
    title: str
    texts: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)


@dataclass(frozen=True)
class _Shown:
    """A figure on the page."""

    id: str
    figure: Figure
    svg: Any
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def write_page(
    out: Path,
    title: str,
    sections: Sequence[Section],
    problems: Sequence[str],
    command: str,
    *,
    show: Callable[[], object] = lambda: None,
) -> Path | None:
    """Write the page, and its figures as SVG and PNG into a folder beside it.

    Args:
        out: the page.
        title: of the page.
        sections: those without content are left out.
        problems: what could not be shown, a line each.
        command: what was typed.
        show: called after each figure.

    Returns:
        The folder of the figures; None: there are none.

    Raises:
        MetarunError: matplotlib or Jinja is not installed.
        OSError: a file cannot be written.
    """
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MetarunError("the page needs Jinja: pip install 'metarun[report]'") from error
    kept = [s for s in sections if s.texts or s.tables or s.figures]
    folder = out.with_name(f"{out.stem}_files")
    used: set[str] = set()
    parts: list[dict[str, Any]] = []
    for section in kept:
        figures = []
        for figure in section.figures:
            name = _unused(figure.name, used)
            canvas = drawn(figure)
            svg = as_svg(canvas, name)
            png = as_png(canvas)
            header = '<?xml version="1.0" encoding="utf-8"?>\n'
            write_text(folder / f"{name}.svg", header + svg)
            replace(folder / f"{name}.png", lambda file, png=png: file.write(png))  # type: ignore[misc]
            heads, rows = numbers(figure)
            # matplotlib has escaped its texts.
            figures.append(_Shown(name, figure, Markup(_inline(svg)), heads, rows[:_MOST_ROWS]))
            show()
        parts.append({**vars(section), "figures": figures})
    template = (Path(__file__).with_name("page.html.j2")).read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    light, dark = (
        Markup(" ".join(f"--c{i}: {colour};" for i, colour in enumerate(colours)))
        for colours in (SERIES, ON_DARK)
    )
    text = environment.from_string(template).render(
        title=title,
        sections=parts,
        problems=list(problems),
        command=command,
        version=__version__,
        light=light,
        dark=dark,
    )
    write_text(out, text)
    return folder if used else None


def _inline(svg: str) -> str:
    """Return an SVG for the page: its colours follow light and dark, and screen readers read its label."""
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)


def _unused(name: str, used: set[str]) -> str:
    """Return a name that no other figure has: it is an id and the name of a file."""
    found, number = name, 2
    while found in used:
        found, number = f"{name}-{number}", number + 1
    used.add(found)
    return found
