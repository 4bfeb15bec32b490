"""The results of a sweep: its jobs grouped by everything but the seed, as a table, csv and json."""

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
from metarun.reports.table import cell, heading, worth_showing
from metarun.runs.directory import Run
from metarun.sweeps.directory import Job, Status
from metarun.system.files import as_json, write_text
from metarun.tasks import Measure
from metarun.tasks.metrics import LOSS

_SEED = "seed"
_MOST_ROWS = 50
_MOST_DIGITS = 8


@dataclass(frozen=True)
class Outcome:
    """One job and its results.

    Attributes:
        job: number, overrides and directory.
        status: of the job.
        scores: final test scores by name: mean over the tasks, and half-width of its 95 % interval.
        selection_score: the best selection score on validation tasks.
        error: the line of the error that ended the job.
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
        """Read the results of a job from its directory."""
        run = Run(job.directory)
        try:
            if foreign := job.foreign():
                return cls(job, "failed", {}, None, foreign)
            results = run.results() or {}
        except MetarunError as error:  # a damaged file concerns this job alone
            return cls(job, "failed", {}, None, str(error))
        final = {
            name: (_number(estimate["mean"]), _number(estimate["ci95"]))
            for name, estimate in results.get("final", {}).items()
        }
        validation = results.get("validation") or {}
        score = validation.get("selection_score", validation.get("quality"))  # "quality" in older runs
        return cls(job, status or job.status, final, score, run.error(), measures_of(results))

    @property
    def choices(self) -> dict[str, str]:
        """The job's overrides: key → value."""
        return {
            key.lstrip("+"): value for key, _, value in (word.partition("=") for word in self.job.overrides)
        }


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seeds only.

    Attributes:
        choices: key → value of what differs between groups.
        outcomes: of all jobs, also of those that are not finished.
    """

    choices: Mapping[str, str]
    outcomes: Sequence[Outcome]

    @property
    def finished(self) -> list[Outcome]:
        """The outcomes that have scores."""
        return [outcome for outcome in self.outcomes if outcome.scores]

    def values(self, name: str) -> list[float]:
        """Return the score of this name of every finished job."""
        return [outcome.scores[name][0] for outcome in self.finished if name in outcome.scores]

    def mean_and_spread(self, name: str) -> tuple[float, float] | None:
        """Return mean and standard deviation over seeds; for one seed, mean and 95 % interval over tasks."""
        values = self.values(name)
        if not values:
            return None
        if len(values) == 1:
            (score,) = [outcome.scores[name] for outcome in self.finished if name in outcome.scores]
            return score
        if any(math.isnan(value) for value in values):
            return math.nan, math.nan
        return statistics.mean(values), statistics.stdev(values)


def grouped(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Return lists of outcomes whose jobs differ in their seeds only."""
    groups: dict[tuple[tuple[str, str], ...], list[Outcome]] = {}
    for outcome in outcomes:
        shared = tuple(sorted((key, value) for key, value in outcome.choices.items() if key != _SEED))
        groups.setdefault(shared, []).append(outcome)
    return list(groups.values())


def as_groups(rows: Sequence[Sequence[Outcome]]) -> list[Group]:
    """Return a group for each row of the table, with the choices in which jobs differ, except the seed."""
    outcomes = [outcome for row in rows for outcome in row]
    keys = dict.fromkeys(key for outcome in outcomes for key in outcome.choices if key != _SEED)
    differing = [key for key in keys if len({outcome.choices.get(key) for outcome in outcomes}) > 1]
    return [Group({key: row[0].choices.get(key, "") for key in differing}, row) for row in rows]


def table(groups: Sequence[Group]) -> str:
    """Return the table of a sweep as text."""
    measures = worth_showing(_measures(groups), lambda m: _means(groups, m.name))
    several = any(len(group.finished) > 1 for group in groups)
    keys = list(groups[0].choices) if groups else []
    rows = []
    for group in groups[:_MOST_ROWS]:
        scores = [group.mean_and_spread(measure.name) for measure in measures]
        if (
            several and len(group.finished) == 1
        ):  # one seed has no deviation; its interval means something else
            scores = [score and (score[0], math.nan) for score in scores]
        cells = [_cell(m, score) for m, score in zip(measures, scores, strict=True)]
        rows.append([*(_short(value) for value in group.choices.values()), *cells, _state(group)])
    spread = "standard deviation over seeds" if several else "95 % confidence interval over tasks"
    heads = [*keys, *(heading(measure) for measure in measures), "finished"]
    alignment = [*("left" for _ in keys), *("right" for _ in measures), "left"]
    body = tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=alignment)
    left_out = len(groups) - len(rows)
    more = f"\n… and {left_out:,} more in table.csv" if left_out else ""
    return f"test: mean ± {spread}\n{body}{more}"


def _means(groups: Iterable[Group], name: str) -> list[float]:
    scores = [group.mean_and_spread(name) for group in groups]
    return [math.nan if score is None else score[0] for score in scores]


def _cell(measure: Measure, score: tuple[float, float] | None) -> str:
    """Return a group's score; only a loss that is there may be NaN."""
    if score is None or (measure != LOSS and math.isnan(score[0])):
        return "–"
    return cell(measure, *score)


def _short(value: str) -> str:
    """Return a long number rounded to four significant digits; any other value as it is."""
    try:
        return value if len(value) <= _MOST_DIGITS else f"{float(value):.4g}"
    except ValueError:
        return value


def _state(group: Group) -> str:
    """Return how many jobs are finished, and the status and numbers of the others."""
    others: dict[Status, list[str]] = {}
    for outcome in group.outcomes:
        if outcome.status != "finished":
            others.setdefault(outcome.status, []).append(str(outcome.job.number))
    state = f"{len(group.finished)}/{len(group.outcomes)}"
    return ", ".join([state, *(f"{status}: {' '.join(numbers)}" for status, numbers in others.items())])


def write(directory: Path, groups: Sequence[Group], more: Mapping[str, Any] | None = None) -> None:
    """Write table.csv (a line per group), jobs.csv (a line per job) and results.json (both)."""
    outcomes = sorted(
        (outcome for group in groups for outcome in group.outcomes), key=lambda outcome: outcome.job.number
    )
    names = [measure.name for measure in _measures(groups)]
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
            "job": outcome.job.number,
            **outcome.choices,
            "status": outcome.status,
            **{
                f"{name}_{statistic}": value
                for name in names
                for statistic, value in _mean_and_ci95(outcome, name)
            },
            "validation_score": outcome.selection_score,
            "error": outcome.error,
        }
        for outcome in outcomes
    ]
    write_text(directory / "table.csv", _csv(lines))
    write_text(directory / "jobs.csv", _csv(jobs))
    content = {**(more or {}), "groups": lines, "jobs": jobs}
    write_text(directory / "results.json", as_json(content, indent=2) + "\n")


def _mean_and_ci95(outcome: Outcome, name: str) -> list[tuple[str, float | None]]:
    mean, ci95 = outcome.scores.get(name, (None, None))
    return [("mean", mean), ("ci95", ci95)]


def _number(value: float | None) -> float:
    """Return a number read from JSON, in which null stands for NaN."""
    return math.nan if value is None else value


def _measures(groups: Iterable[Group]) -> list[Measure]:
    by_name = {
        name: measure
        for group in groups
        for outcome in group.finished
        for name, measure in outcome.measures.items()
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
