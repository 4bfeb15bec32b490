"""The list of runs as tables."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tabulate import tabulate

from metarun.runs.index import SweepSummary
from metarun.runs.resuming import resume_command
from metarun.runs.summary import Summary
from metarun.system.console import printable

_RESUMED = ("interrupted", "failed")

# How runs may be sorted; those without the value come first, and the best or newest is last.
SORTS: Mapping[str, Callable[[Summary], Any]] = {
    "age": lambda run: run.changed,
    "algo": lambda run: run.choices.get("algo", ""),
    "data": lambda run: run.choices.get("data", ""),
    "state": lambda run: run.state,
    "step": lambda run: run.step,
    "best": lambda run: _goodness(run, run.best),
    "test": lambda run: _goodness(run, run.test and run.test[0]),
    "path": lambda run: run.path,
}


def _goodness(run: Summary, value: float | None) -> float:
    if value is None or math.isnan(value):
        return -math.inf
    return value if run.metric["higher_is_better"] else -value


def runs_table(runs: Sequence[Summary]) -> str:
    """Return a line for each run: what it is, how far it is, its scores, its age and where it is."""
    heads = ["state", "algo", "data", "seed", "step", "score", "last", "best", "test", "age", "directory"]
    rows = [
        [
            run.state,
            printable(run.choices.get("algo", "–")),
            printable(run.choices.get("data", "–")),
            "–" if run.seed is None else str(run.seed),
            f"{run.step}/{'?' if run.steps is None else run.steps}",
            printable(run.metric["name"]),
            _score(run, run.last),
            _score(run, run.best),
            _score(run, run.test and run.test[0]),
            age(time.time() - run.changed),
            printable(run.path),
        ]
        for run in runs
    ]
    align = ["left", "left", "left", *["right"] * 2, "left", *["right"] * 4, "left"]
    return tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=align)


def sweeps_table(sweeps: Sequence[SweepSummary]) -> str:
    """Return a line for each sweep."""
    heads = ["state", "algo", "data", "jobs", "finished", "best", "age", "directory of the sweep"]
    rows = []
    for sweep in sweeps:
        done = [job for job in sweep.jobs if job.state == "finished"]
        best = max(done, key=SORTS["test"], default=None)
        changed = max((job.changed for job in sweep.jobs), default=0.0)
        rows.append(
            [
                sweep.state,
                _of_all(sweep, "algo"),
                _of_all(sweep, "data"),
                str(sweep.total),
                str(len(done)),
                "–" if best is None else f"{best.metric['name']} {_score(best, best.test and best.test[0])}",
                age(time.time() - changed) if changed else "–",
                printable(sweep.path),
            ]
        )
    align = ["left", "left", "left", "right", "right", "left", "right", "left"]
    return tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=align)


def to_go_on(found: Sequence[Summary | SweepSummary], most: int = 10) -> list[str]:
    """Return the commands that resume the last runs and sweeps that are not finished."""
    stopped = [each for each in found if each.state in _RESUMED]
    lines = [printable(resume_command(Path(each.path))) for each in stopped[-most:]]
    left_out = len(stopped) - len(lines)
    if left_out:
        lines.insert(0, f"… and {left_out:,} more")
    return lines


def plain(found: Summary | SweepSummary) -> dict[str, Any]:
    """Return a run or a sweep as plain values, with the command that resumes it."""
    command = resume_command(Path(found.path)) if found.state in _RESUMED else None
    if isinstance(found, Summary):
        return {**found.plain(), "resume": command}
    jobs = [plain(job) for job in found.jobs]
    return {"path": found.path, "state": found.state, "total": found.total, "jobs": jobs, "resume": command}


def age(seconds: float) -> str:
    """Return a time span in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"


def _of_all(sweep: SweepSummary, group: str) -> str:
    named = dict.fromkeys(job.choices.get(group, "–") for job in sweep.jobs)
    return printable(",".join(named)) if len(named) <= 4 else f"{len(named)} of them"


def _score(run: Summary, value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{100 * value:.2f} %" if run.metric["percent"] else f"{value:.4g}"
