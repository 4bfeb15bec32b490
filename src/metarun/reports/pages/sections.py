"""The sections of a report."""

from __future__ import annotations

import math
from collections.abc import Sequence

from metarun.errors import MetarunError
from metarun.evaluation.comparison import Comparison, compare
from metarun.reports.comparison import effect_size, p_value
from metarun.reports.pages.curves import adaptation_curves, learning_curves
from metarun.reports.pages.gathered import Gathered, Record, SetUp, SweepRecord, over_seeds
from metarun.reports.pages.page import Section, Table
from metarun.reports.pages.sweep_figures import sweep_figures, varied
from metarun.reports.table import cell, heading

_MOST_ROWS = 200
_ALL_PAIRS = 6  # set-ups, at most


def sections_of(found: Gathered, problems: list[str]) -> list[Section]:
    """Return the sections that need nothing but files; what cannot be shown is added to the problems."""
    arenas = found.arenas
    learning = Section("learning", "Learning curves")
    adaptation = Section("adaptation", "Adaptation")
    differences = Section("differences", "Differences")
    for (data, _), set_ups in arenas.items():
        of_data = f" ({data})" if len(arenas) > 1 else ""
        learning.figures += learning_curves(set_ups, of_data)
        adaptation.figures += adaptation_curves(set_ups, of_data)
        _compare(differences, set_ups, of_data, problems)
    sweeps = [_sweep(sweep, number) for number, sweep in enumerate(found.sweeps, 1)]
    return [_results(found.set_ups), differences, learning, adaptation, *sweeps, _work(found.records)]


def _sweep(sweep: SweepRecord, number: int) -> Section:
    """Return what was varied with the scores, the best first, and the figures."""
    section = Section(f"sweep-{number}", f"Sweep {sweep.path.name}", [str(sweep.path)])
    values = varied(sweep.set_ups)
    measure = sweep.set_ups[0].records[0].measure
    scored: list[tuple[float, list[str]]] = []
    for place, set_up in enumerate(sweep.set_ups):
        tests = [record.summary.test[0] for record in set_up.records if record.summary.test is not None]
        mean = sum(tests) / len(tests) if tests else math.nan
        row = [value if isinstance(value := each[place], str) else f"{value:g}" for each in values.values()]
        finished = f"{len(tests)}/{len(set_up.records)}"
        goodness = -math.inf if math.isnan(mean) else mean if measure.higher_is_better else -mean
        scored.append((goodness, [*row, cell(measure, mean, math.nan) if tests else "–", finished]))
    rows = [row for _, row in sorted(scored, key=lambda each: each[0], reverse=True)[:_MOST_ROWS]]
    heads = [*values, f"test {heading(measure)}", "finished"]
    section.tables.append(Table("The sweep", heads, rows, frozenset({len(values), len(values) + 1})))
    section.figures = sweep_figures(sweep)
    return section


def _results(set_ups: Sequence[SetUp]) -> Section:
    """Return a line for each set-up: its seeds, states and scores."""
    rows = []
    for set_up in set_ups[:_MOST_ROWS]:
        first = set_up.records[0]
        tests = [r.summary.test for r in set_up.records if r.summary.test is not None]
        test = "–"
        if tests:
            mean, spread = tests[0]
            if len(tests) > 1:
                estimate = over_seeds([mean for mean, _ in tests])
                mean, spread = estimate.mean, estimate.ci95
            test = cell(first.measure, mean, spread)
        states = [r.state for r in set_up.records]
        state = ", ".join(f"{states.count(s)} {s}" if len(states) > 1 else s for s in dict.fromkeys(states))
        best = [r.summary.best for r in set_up.records if r.summary.best is not None]
        done = max(record.summary.step for record in set_up.records)
        steps = f"{done}/{'?' if first.summary.steps is None else first.summary.steps}"
        best_cell = cell(first.measure, sum(best) / len(best), math.nan) if best else "–"
        rows.append(
            [set_up.name, str(len(set_up.records)), state, steps, heading(first.measure), best_cell, test]
        )
    texts = []
    if len(set_ups) > _MOST_ROWS:
        texts.append(f"The first {_MOST_ROWS} of {len(set_ups)} set-ups.")
    errors = [f"{r.path}: {r.summary.error}" for s in set_ups for r in s.records if r.summary.error]
    heads = ["set-up", "seeds", "state", "meta-steps", "score", "best validation", "test"]
    table = Table("Results", heads, rows, frozenset({1, 3, 5, 6}))
    note = "Test: mean ± 95 % confidence interval, over test tasks, or over seeds where there are several."
    return Section("results", "Results", [note, *texts, *errors], [table])


def _compare(section: Section, set_ups: Sequence[SetUp], of_data: str, problems: list[str]) -> None:
    """Add which differences are significant."""
    records = [record for set_up in set_ups for record in set_up.records if record.curve is not None]
    tests = [test for record in records if (test := record.tested) is not None]
    if len(tests) < len(records):
        problems.append(
            f"{len(records) - len(tests)} of {len(records)} tests{of_data} have no scores of each task, and "
            "are not compared"
        )
    if len({id(set_up) for set_up in set_ups if any(record.tested for record in set_up.records)}) < 2:
        return
    try:
        result = compare(tests, against="all" if len(set_ups) <= _ALL_PAIRS else "best")
    except MetarunError as error:
        problems.append(f"no comparison{of_data}: {error}")
        return
    which = "each pair" if len(set_ups) <= _ALL_PAIRS else "each set-up against the best"
    section.texts.append(
        f"{result.measure.name}{of_data}, {which}, "
        f"{'on the same test tasks' if result.unit == 'tasks' else 'by seed'} where there are such; p of "
        "Student's t-test (Welch's where nothing is paired), corrected for "
        f"the number of pairs, {len(result.pairs)} (Holm); effect: Cohen's d."
    )
    section.tables.append(_pairs(result))


def _pairs(result: Comparison) -> Table:
    unit = 100 if result.measure.percent else 1
    rows = [
        [
            f"{result.sides[pair.first].name} − {result.sides[pair.second].name}",
            f"{unit * pair.difference.mean:+.4g}",
            f"[{unit * pair.difference.low:+.4g}, {unit * pair.difference.high:+.4g}]",
            p_value(pair.p),
            effect_size(pair.difference.effect),
            "significant" if pair.is_significant else "",
            f"{pair.difference.count:,} {'pairs' if pair.difference.paired else 'each, not paired'}",
        ]
        for pair in sorted(result.pairs, key=lambda pair: pair.p)[:_MOST_ROWS]
    ]
    heads = [f"difference of {heading(result.measure)}", "", "95 % interval", "p", "effect", "", "of"]
    return Table("Differences", heads, rows, frozenset({1, 2, 3, 4}))


def _work(records: Sequence[Record]) -> Section:
    """Return time, memory, engine and machine of every run."""
    rows = []
    for record in records[:_MOST_ROWS]:
        trained = [row for row in record.metrics if row["split"] == "train"]
        seconds = sum(float(row.get("seconds", 0)) for row in record.metrics)
        rate = trained[-1].get("tasks_per_second") if trained else None
        memory = record.usage.get("peak_memory_bytes")
        engine = ", ".join(
            f"{key} {record.engine[key]}"
            for key in ("strategy", "chunk", "workers", "threads")
            if key in record.engine
        )
        extras = [
            key
            for key in ("compile", "rematerialise", "kernels", "plain", "tf32", "bf16")
            if record.engine.get(key)
        ]
        rows.append(
            [
                record.summary.path,
                _span(seconds) if record.metrics else "–",
                "–" if rate is None else f"{rate:,.0f}",
                "–" if memory is None else f"{memory / 2**30:.2f} GiB",
                ", ".join([engine, *extras]) or "–",
                f"{record.manifest.get('device', '–')}, {record.manifest.get('host', '–')}",
                str(record.manifest.get("command", "–")),
            ]
        )
    heads = ["run", "time", "tasks/s", "memory", "engine", "machine", "command"]
    texts = [f"The first {_MOST_ROWS} of {len(records)} runs."] if len(records) > _MOST_ROWS else []
    return Section(
        "work", "Time, memory and engine", texts, [Table("Work", heads, rows, frozenset({1, 2, 3}))]
    )


def _span(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {int(seconds % 60)} s"
