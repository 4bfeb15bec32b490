"""Tables of published and obtained numbers, from the files of docs/results/."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

FOLDER = Path(__file__).parents[1] / "results"

Cell = str | Mapping[str, Any]
"""A text; or a number: mean, ci95, the digits that are shown, its unit, and whether it is the best."""


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        heads: of its columns.
        rows: of cells.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a file of docs/results."""
        content = json.loads(path.read_text("utf-8"))
        return cls(content["heads"], content["rows"])

    def of(self, algo: str) -> Table:
        """Return the rows whose command trains this algorithm."""
        named = rf"(experiment=\w*?_|algo=){re.escape(algo)}(_\w+)?[` ]"
        rows = [row for row in self.rows if isinstance(row[0], str) and re.search(named, row[0])]
        return Table(self.heads, rows)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        lines = [_row(self.heads), f"|{'---|' * len(self.heads)}"]
        return "\n".join([*lines, *(_row([text_of(cell) for cell in row]) for row in self.rows)])


@cache
def tables() -> dict[str, Table]:
    """Return the results that the repository keeps, by name."""
    return {path.stem: Table.read(path) for path in sorted(FOLDER.glob("*.json"))}


def text_of(cell: Cell) -> str:
    """Return a cell as it is shown."""
    if isinstance(cell, str):
        return cell
    digits = cell["digits"]
    text = f"{cell['mean']:.{digits}f}"
    if "ci95" in cell:
        text += f" ± {cell['ci95']:.{digits}f}"
    text += f" {cell['unit']}" if "unit" in cell else ""
    return f"**{text}**" if cell.get("best") else text


def results_page() -> str:
    """Return the page of all results: tables of the files, and the remarks between them."""
    environment = Environment(undefined=StrictUndefined)
    template = (FOLDER / "page.md.j2").read_text("utf-8")
    named = {name: table.markdown() for name, table in tables().items()}
    return environment.from_string(template).render(table=named) + "\n"


def in_a_cell(text: str) -> str:
    """Return a text for a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def as_text(text: str) -> str:
    """Return a text whose asterisks and underscores are no Markdown."""
    return text.replace("*", "\\*").replace("_", "\\_")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("  |", " |")
