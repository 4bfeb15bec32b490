"""What a sweep has found: its jobs grouped by everything but the seed, as a table, csv and json."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tabulate import tabulate

from metarun.errors import MetarunError
from metarun.evaluation.curve import measures_of
from metarun.reports.table import cell, heading
from metarun.runs.directory import Run
from metarun.sweeps.directory import Job, Status
from metarun.system.files import as_json, write_text
from metarun.tasks import Measure

_SEED = "seed"
_MOST_ROWS = 50
_MOST_DIGITS = 8


@dataclass(frozen=True)
class Outcome:
    """One job and what came of it.

    Attributes:
        job: number, overrides and directory.
        status: how it stands.
        scores: final test scores by name: mean over the tasks, and half-width of its 95 % interval.
        selection_score: the best on validation tasks.
        error: the line it failed with.
        measures: how to read the scores, by name.
    """

    job: Job
    status: Status
    scores: Mapping[str, tuple[float, float]]
    selection_score: float | None = None
    error: str | None = None
    measures: Mapping[str, Measure] = field(default_factory=dict)

    @classmethod
    def read(cls, job: Job, status: Status | None = None) -> Outcome:
        """Read what a job has left in its directory."""
        run = Run(job.directory)
        try:
            if foreign := job.foreign():
                return cls(job, "failed", {}, None, foreign)
            results = run.results() or {}
        except MetarunError as error:  # a damaged file is this job's, and not the table's
            return cls(job, "failed", {}, None, str(error))
        final = {
            name: (_number(each["mean"]), _number(each["ci95"]))
            for name, each in results.get("final", {}).items()
        }
        validation = results.get("validation") or {}
        score = validation.get("selection_score", validation.get("quality"))  # as it was called before
        return cls(job, status or job.status, final, score, run.error(), measures_of(results))

    @property
    def choices(self) -> dict[str, str]:
        """Key → value of its overrides."""
        return {
            key.lstrip("+"): value for key, _, value in (word.partition("=") for word in self.job.overrides)
        }


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seeds only.

    Attributes:
        choices: key → value of what differs between groups.
        outcomes: of the jobs, the finished ones and the others.
    """

    choices: Mapping[str, str]
    outcomes: Sequence[Outcome]

    @property
    def finished(self) -> list[Outcome]:
        """Those that have scores."""
        return [each for each in self.outcomes if each.scores]

    def values(self, name: str) -> list[float]:
        """Return a score of every finished job."""
        return [each.scores[name][0] for each in self.finished if name in each.scores]

    def mean_and_spread(self, name: str) -> tuple[float, float] | None:
        """Return mean and standard deviation over seeds; of one seed, its 95 % interval over tasks."""
        values = self.values(name)
        if not values:
            return None
        if len(values) == 1:
            (only,) = [each.scores[name] for each in self.finished if name in each.scores]
            return only
        return statistics.mean(values), statistics.stdev(values)


def grouped(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return the outcomes of jobs that differ in their seeds only, together."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for each in outcomes:
        alike = tuple(sorted((key, value) for key, value in each.choices.items() if key != _SEED))
        groups.setdefault(alike, []).append(each)
    return list(groups.values())


def as_groups(rows: Sequence[Sequence[Outcome]]) -> list[Group]:
    """Return rows of a table, each with the choices that differ between any jobs, but the seed."""
    outcomes = [outcome for row in rows for outcome in row]
    keys = dict.fromkeys(key for each in outcomes for key in each.choices if key != _SEED)
    differing = [key for key in keys if len({each.choices.get(key) for each in outcomes}) > 1]
    return [Group({key: row[0].choices.get(key, "") for key in differing}, row) for row in rows]


def table(groups: Sequence[Group]) -> str:
    """Return the table that ends a sweep."""
    measures = _measures(groups)
    several = any(len(group.finished) > 1 for group in groups)
    keys = list(groups[0].choices) if groups else []
    rows = []
    for group in groups[:_MOST_ROWS]:
        found = [group.mean_and_spread(each.name) for each in measures]
        if several and len(group.finished) == 1:  # one seed has no deviation; its interval is another thing
            found = [each and (each[0], math.nan) for each in found]
        cells = [cell(m, *each) if each else "–" for m, each in zip(measures, found, strict=True)]
        rows.append([*(_short(value) for value in group.choices.values()), *cells, _state(group)])
    spread = "standard deviation over seeds" if several else "95 % confidence interval over tasks"
    heads = [*keys, *(heading(each) for each in measures), "finished"]
    aligned = [*("left" for _ in keys), *("right" for _ in measures), "left"]
    body = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=aligned)
    left_out = len(groups) - len(rows)
    more = f"\n… and {left_out:,} more in table.csv" if left_out else ""
    return f"test: mean ± {spread}\n{body}{more}"


def _short(value: str) -> str:
    """Return a drawn number with the digits that a person wants to see."""
    try:
        return value if len(value) <= _MOST_DIGITS else f"{float(value):.4g}"
    except ValueError:
        return value


def _state(group: Group) -> str:
    """Say how many jobs are finished, and what became of the others."""
    others: dict[Status, list[str]] = {}
    for each in group.outcomes:
        if each.status != "finished":
            others.setdefault(each.status, []).append(str(each.job.number))
    state = f"{len(group.finished)}/{len(group.outcomes)}"
    return ", ".join([state, *(f"{status}: {' '.join(numbers)}" for status, numbers in others.items())])


def write(directory: Path, groups: Sequence[Group], more: Mapping[str, Any] | None = None) -> None:
    """Write table.csv (a line a group), jobs.csv (a line a job) and results.json (both)."""
    outcomes = sorted((each for group in groups for each in group.outcomes), key=lambda each: each.job.number)
    names = [each.name for each in _measures(groups)]
    lines = []
    for group in groups:
        line: dict[str, Any] = dict(group.choices)
        for name in names:
            mean, spread = group.mean_and_spread(name) or (None, None)
            kind = "std" if len(group.values(name)) > 1 else "ci95"
            line |= {
                f"{name}_mean": mean,
                f"{name}_std": None,
                f"{name}_ci95": None,
                f"{name}_{kind}": spread,
            }
        lines.append({**line, "finished": len(group.finished), "jobs": len(group.outcomes)})
    jobs = [
        {
            "job": each.job.number,
            **each.choices,
            "status": each.status,
            **{f"{name}_{what}": score for name in names for what, score in _both(each, name)},
            "validation_score": each.selection_score,
            "error": each.error,
        }
        for each in outcomes
    ]
    write_text(directory / "table.csv", _csv(lines))
    write_text(directory / "jobs.csv", _csv(jobs))
    content = {**(more or {}), "groups": lines, "jobs": jobs}
    write_text(directory / "results.json", as_json(content, indent=2) + "\n")


def _both(outcome: Outcome, name: str) -> list[tuple[str, float | None]]:
    mean, ci95 = outcome.scores.get(name, (None, None))
    return [("mean", mean), ("ci95", ci95)]


def _number(value: float | None) -> float:
    """Return what JSON has null for."""
    return math.nan if value is None else value


def _measures(groups: Iterable[Group]) -> list[Measure]:
    by_name = {
        name: measure
        for group in groups
        for each in group.finished
        for name, measure in each.measures.items()
    }
    return list(by_name.values())


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for line in lines for key in line)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
