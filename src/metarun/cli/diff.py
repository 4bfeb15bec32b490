"""`metarun diff RUN RUN`: what differs between two runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from metarun.cli.arguments import parse
from metarun.evaluation.curve import measures_of
from metarun.reports.table import cell, heading
from metarun.runs.changes import differences
from metarun.runs.directory import Run
from metarun.tasks import Measure

# Different in any two runs, and of no consequence.
_OWN = ("started", "directory", "command", "resumed")


def main(arguments: list[str]) -> None:
    """Print the differing keys of config and manifest, and the results side by side.

    Raises:
        MetarunError: one of the directories is not a run's, or a file in it is damaged.
    """
    parser = argparse.ArgumentParser("metarun diff", description="Print what differs between two runs.")
    parser.add_argument("one", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("other", metavar="RUN", type=Path, help="another")
    given = parse(parser, arguments[1:])
    runs = Run.open(given.one), Run.open(given.other)
    sections = {
        "config": _differing(*(run.config() for run in runs)),
        "where and with what": _differing(*(_without_own(run.manifest()) for run in runs)),
        "results": _results(*(run.results() for run in runs)),
    }
    found = {title: rows for title, rows in sections.items() if rows}
    if not found:
        print("nothing differs, the results included")
    for title, rows in found.items():
        heads = [title, str(given.one), str(given.other)]
        print(f"{tabulate(rows, heads, tablefmt='simple', disable_numparse=True)}\n")


def _without_own(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in _OWN}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[list[str]]:
    return [[key, _short(a), _short(b)] for key, (a, b) in differences(one, other).items()]


def _results(one: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> list[list[str]]:
    """Return the final scores, where they differ in any bit."""
    if one == other:
        return []
    sides = one or {}, other or {}
    rows = [["checkpoint of step", *(str(side.get("checkpoint_step", "–")) for side in sides)]]
    measures = {name: each for side in sides for name, each in measures_of(side).items()}
    for name, measure in measures.items():
        cells = [_score(measure, side.get("final", {}).get(name)) for side in sides]
        rows.append([heading(measure), *cells])
    return rows


def _score(measure: Measure, estimate: Mapping[str, Any] | None) -> str:
    """Return mean ± interval, with all digits of the mean: two runs may differ in the last."""
    if not estimate or estimate["mean"] is None:
        return "–"
    return f"{cell(measure, estimate['mean'], estimate['ci95'] or 0.0)} ({estimate['mean']!r})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
