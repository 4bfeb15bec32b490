"""`metarun diff RUN RUN`: print the differences between two runs."""

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

# Manifest keys that differ between any two runs, and do not affect the results.
_IGNORED = ("started", "directory", "command", "resumed")

_NO_SCORE = "–"


def main(arguments: list[str]) -> None:
    """Print the differing keys of config and manifest, and the results side by side.

    Raises:
        MetarunError: one of the directories holds no run, or a file in it is damaged.
    """
    parser = argparse.ArgumentParser("metarun diff", description="Print what differs between two runs.")
    parser.add_argument("first", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("second", metavar="RUN", type=Path, help="the directory of another run")
    options = parse(parser, arguments[1:])
    runs = Run.open(options.first), Run.open(options.second)
    sections = {
        "config": _differing(*(run.config() for run in runs)),
        "machine and software": _differing(*(_comparable(run.manifest()) for run in runs)),
        "results": _results(*(run.results() for run in runs)),
    }
    differing = {title: rows for title, rows in sections.items() if rows}
    if not differing:
        print("nothing differs, the results included")
    for title, rows in differing.items():
        heads = [title, str(options.first), str(options.second)]
        print(f"{tabulate(rows, heads, tablefmt='simple', disable_numparse=True)}\n")


def _comparable(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in _IGNORED}


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[list[str]]:
    return [[key, _short(a), _short(b)] for key, (a, b) in differences(first, second).items()]


def _results(first: Mapping[str, Any] | None, second: Mapping[str, Any] | None) -> list[list[str]]:
    """Return the rows of the final scores, or none if the results are identical."""
    if first == second:
        return []
    results = first or {}, second or {}
    rows = [["checkpoint of step", *(str(result.get("checkpoint_step", "–")) for result in results)]]
    measures = {name: measure for result in results for name, measure in measures_of(result).items()}
    for name, measure in measures.items():
        cells = [_score(measure, result.get("final", {}).get(name)) for result in results]
        if any(text != _NO_SCORE for text in cells):
            rows.append([heading(measure), *cells])
    return rows


def _score(measure: Measure, estimate: Mapping[str, Any] | None) -> str:
    """Return mean ± interval, and the mean with all digits, since two runs may differ only in the last."""
    if not estimate or estimate["mean"] is None:
        return _NO_SCORE
    return f"{cell(measure, estimate['mean'], estimate['ci95'] or 0.0)} ({estimate['mean']!r})"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
