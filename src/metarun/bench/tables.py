"""The tables that `metarun bench` prints, one per kind of row, and the failures below them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tabulate import tabulate

from metarun.bench.cases import CASES, GROWTH
from metarun.bench.regressions import Change
from metarun.bench.rows import Row

_Columns = dict[str, Callable[[Row], str]]


def _text(key: str) -> Callable[[Row], str]:
    return lambda row: str(row[key])


def _number(key: str, form: str) -> Callable[[Row], str]:
    return lambda row: format(row[key], form) if key in row else "–"


def _mebibytes(key: str) -> Callable[[Row], str]:
    return lambda row: "–" if row.get(key) is None else f"{row[key] / 2**20:.0f}"


def _times_faster(row: Row) -> str:
    if "ratio" in row:
        return f"{row['ratio']:.2f}"
    return "failed" if "failed" in row else f"wrong: {row['error']:.0e}"


_RACE: _Columns = {
    "case": _text("case"),
    "peer": _text("peer"),
    "times faster": _times_faster,
    "metarun ms": _number("metarun_ms", ".1f"),
    "peer ms": _number("peer_ms", ".1f"),
    "metarun MiB": _mebibytes("metarun_peak_bytes"),
    "peer MiB": _mebibytes("peer_peak_bytes"),
}
_KINDS: list[tuple[Callable[[str], bool], _Columns]] = [
    (CASES.__contains__, _RACE),
    (
        GROWTH.__contains__,
        {"case": _text("case"), "tasks": _text("tasks"), "steps": _text("steps"), **_RACE},
    ),
    (
        "data".__eq__,
        {
            "source": _text("source"),
            "tasks": _text("tasks"),
            "episodes a second": _number("episodes_per_second", ",.0f"),
            "episodes ms": _number("episodes_ms", ".2f"),
            "meta-gradient ms": _number("metarun_ms", ".1f"),
            "share of a meta-step": _number("share", ".1%"),
        },
    ),
    (
        "peak".__eq__,
        {"peak": _text("what"), "giga a second": _number("giga_per_second", ",.1f")},
    ),
    (
        "floor".__eq__,
        {
            "case": _text("work"),
            "GFLOP": _number("gflop", ".2f"),
            "GB": _number("gigabytes", ".2f"),
            "floor ms": _number("floor_ms", ".2f"),
            "bytes ms": _number("bytes_ms", ".1f"),
            "metarun ms": _number("metarun_ms", ".1f"),
            "share of the peak": _number("share", ".0%"),
        },
    ),
    ("startup".__eq__, {"from the command": _text("what"), "seconds": _number("seconds", ".2f")}),
]


_WORDS = {"case", "peer", "source", "from the command", "peak"}


def tables(rows: Sequence[Row]) -> str:
    """Return one table for each kind of row, and a line for each failure."""
    shown = []
    for is_kind, columns in _KINDS:
        cells = [[show(row) for show in columns.values()] for row in rows if is_kind(row["case"])]
        if cells:
            align = ["left" if head in _WORDS else "right" for head in columns]
            heads = list(columns)
            shown.append(tabulate(cells, heads, tablefmt="simple", disable_numparse=True, colalign=align))
    failures = [
        f"{row['case']}, {row.get('peer') or row.get('source') or row['work']} failed: {row['failed']}"
        for row in rows
        if "failed" in row
    ]
    return "\n\n".join([*shown, *(["\n".join(failures)] if failures else [])])


def changes_table(changes: Sequence[Change]) -> str:
    """Return a line for each race: how many times faster metarun is, and was."""
    lines = [
        [each.case, each.peer, f"{each.now:.2f}", f"{each.then:.2f}", f"{each.now / each.then - 1:+.0%}"]
        for each in changes
    ]
    heads = ["case", "peer", "times faster", "it was", "change"]
    alignment = ["left", "left", "right", "right", "right"]
    return tabulate(lines, heads, tablefmt="simple", disable_numparse=True, colalign=alignment)
