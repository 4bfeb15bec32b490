"""What a report reads from the directories of runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.curve import Curve, Estimate
from metarun.evaluation.statistics import interval
from metarun.evaluation.task_scores import TaskScores
from metarun.evaluation.tested import FinishedTest
from metarun.runs.directory import TEST_TASKS, Run
from metarun.runs.finding import places
from metarun.runs.labels import SEED_KEYS, flat, labels
from metarun.runs.summary import State, Summary, is_held, summary
from metarun.tasks import Measure
from metarun.tasks.metrics import LOSS


@dataclass(frozen=True)
class Record:
    """A run as a report sees it.

    Attributes:
        summary: in a line.
        config: by dotted key.
        metrics: the lines of metrics.jsonl.
        curve: of the test; None: it is not finished.
        each_task: the scores of each test task; None: they are not known.
        engine: how it was computed.
        usage: memory that it has used; empty: of an older metarun.
        manifest: command, machine and versions.
    """

    summary: Summary
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    curve: Curve | None
    each_task: TaskScores | None
    engine: Mapping[str, Any]
    usage: Mapping[str, Any]
    manifest: Mapping[str, Any]

    @property
    def path(self) -> Path:
        """Its directory."""
        return Path(self.summary.path)

    @property
    def state(self) -> State:
        """Of the run."""
        return self.summary.state

    @property
    def measure(self) -> Measure:
        """The score that selects its best learner."""
        metric = self.summary.metric
        return Measure(metric["name"], metric["higher_is_better"], metric["percent"])

    @property
    def measures(self) -> dict[str, Measure]:
        """How to read its scores, by name."""
        return {measure.name: measure for measure in (self.curve.measures if self.curve else (LOSS,))}

    @property
    def tested(self) -> FinishedTest | None:
        """Its test, for comparisons; None where the scores of tasks are not known."""
        if self.each_task is None or self.curve is None:
            return None
        return FinishedTest(self.path, self.config, self.summary.choices, self.each_task, self.measures)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Return the mean of several seeds, and Student's 95 % interval; NaN where SciPy is not installed."""
    table = torch.tensor(values, dtype=torch.float64)
    try:
        spread = interval(table)
    except MetarunError:
        spread = math.nan
    return Estimate(float(table.mean()), spread)


@dataclass(frozen=True)
class SetUp:
    """Runs that differ in their seeds only.

    Attributes:
        label: what tells it from the others.
        records: of the runs.
    """

    label: Mapping[str, str]
    records: list[Record]

    @property
    def name(self) -> str:
        """The label in words, or where the first run is."""
        return " ".join(f"{k}={v}" for k, v in self.label.items()) or self.records[0].summary.path

    @property
    def arena(self) -> tuple[str, str]:
        """What its scores may be compared with: those of the same data by the same measure."""
        first = self.records[0]
        target = str(first.config.get("data._target_", "")).rpartition(".")[2]
        return first.summary.choices.get("data", target), first.measure.name


@dataclass(frozen=True)
class SweepRecord:
    """A sweep: its directory, its runs, and whether it was a search."""

    path: Path
    set_ups: list[SetUp]
    is_search: bool


@dataclass
class Gathered:
    """All that a report is about.

    Attributes:
        records: all runs.
        sweeps: those among them that belong to sweeps.
        problems: what could not be read, a line each.
    """

    records: list[Record] = field(default_factory=list)
    sweeps: list[SweepRecord] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def set_ups(self) -> list[SetUp]:
        """All runs, grouped by everything but the seed."""
        return grouped(self.records)

    @property
    def arenas(self) -> dict[tuple[str, str], list[SetUp]]:
        """The set-ups whose scores may be compared, by data and measure; labels tell them apart."""
        arenas: dict[tuple[str, str], list[Record]] = {}
        for set_up in self.set_ups:
            arenas.setdefault(set_up.arena, []).extend(set_up.records)
        return {arena: grouped(records) for arena, records in arenas.items()}


def gather(paths: Sequence[Path]) -> Gathered:
    """Read runs, sweeps, and folders of them; what is damaged is named, and the rest is read.

    Raises:
        ConfigError: there is no run that can be read.
    """
    found = Gathered()
    seen: set[Path] = set()
    for path in paths:
        if not path.is_dir():
            raise ConfigError(
                f"{path}: there is no such folder: expected a run, a sweep, or a folder of runs"
            )
        sweep: tuple[Path, list[Record]] | None = None
        of_sweeps: list[tuple[Path, list[Record]]] = []
        for place in places(path):
            if place.is_sweep:
                sweep = (place.path, [])
                of_sweeps.append(sweep)
                continue
            if (identity := place.path.resolve()) in seen:
                continue
            seen.add(identity)
            record = _read(place.path, found.problems)
            if record is not None:
                found.records.append(record)
                if sweep is not None and place.path.is_relative_to(sweep[0]):
                    sweep[1].append(record)
        found.sweeps += [SweepRecord(p, grouped(r), _is_search(p)) for p, r in of_sweeps if r]
    if not found.records:
        why = f" ({'; '.join(found.problems)})" if found.problems else ""
        raise ConfigError(f"{', '.join(map(str, paths))}: there is no run to report{why}")
    return found


def grouped(records: Sequence[Record]) -> list[SetUp]:
    """Return runs grouped by everything but the seed, in their order."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        key = json.dumps({k: v for k, v in record.config.items() if k not in SEED_KEYS}, sort_keys=True)
        groups.setdefault(key, []).append(record)
    first = [group[0] for group in groups.values()]
    told = labels([record.config for record in first], [record.summary.choices for record in first])
    return [SetUp(label, group) for label, group in zip(told, groups.values(), strict=True)]


def _read(directory: Path, problems: list[str]) -> Record | None:
    """Read a run; say what is damaged."""
    line = summary(directory, 0.0)
    if line.state == "damaged":
        problems.append(f"{directory} is damaged, and left out: {line.error}")
        return None
    if line.state != "finished" and is_held(directory):
        line = Summary(**{**vars(line), "state": "running"})
    run = Run(directory)
    try:
        config = flat(run.config())
        results = run.results()
        curve = Curve.from_dict(results) if results else None
    except (MetarunError, LookupError, ValueError, TypeError) as error:
        problems.append(f"{directory} is damaged, and left out: {error}")
        return None
    each_task = None
    if curve is not None:
        try:
            each_task = TaskScores.read(directory / TEST_TASKS)
        except MetarunError as error:
            problems.append(str(error))
    return Record(
        line,
        config,
        _metrics(run),
        curve,
        each_task,
        _json(directory / "engine.json"),
        _json(directory / "usage.json"),
        run.manifest(),
    )


def _metrics(run: Run) -> list[dict[str, Any]]:
    path = run.metrics.path
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be being written


def _json(path: Path) -> dict[str, Any]:
    """Return the content of a file that only people need; {} if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_search(directory: Path) -> bool:
    return _json(directory / "sweep.json").get("kind") == "search"
