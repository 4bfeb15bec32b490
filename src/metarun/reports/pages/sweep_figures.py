"""Figures of a sweep: its scores over what was varied, the history of a search, and what mattered."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from metarun.figures import Bars, Figure, Line, Lines, Parallel, Surface
from metarun.reports.pages.gathered import SetUp, SweepRecord
from metarun.runs.labels import SEED_KEYS

Value = str | float


def sweep_figures(sweep: SweepRecord) -> list[Figure]:
    """Return figures of the finished set-ups of a sweep; none of fewer than two."""
    scored = [(set_up, score) for set_up in sweep.set_ups if (score := _score(set_up)) is not None]
    if len(scored) < 2:
        return []
    set_ups, scores = [set_up for set_up, _ in scored], [score for _, score in scored]
    values = varied(set_ups)
    keys = list(values)
    measure = set_ups[0].records[0].measure
    unit = f"test {measure.name} (%)" if measure.percent else f"test {measure.name}"
    factor = 100.0 if measure.percent else 1.0
    scores = [factor * score for score in scores]
    source = str(sweep.path)
    figures: list[Figure] = []
    if len(keys) == 1 and all(isinstance(value, float) for value in values[keys[0]]):
        figures.append(_over_one(keys[0], values[keys[0]], scores, unit, source))
    elif len(keys) == 2:
        figures.append(_over_two(keys, values, scores, unit, source))
    elif len(keys) > 2:
        figures.append(
            Parallel(
                name="sweep-parallel",
                title=f"{unit.capitalize()} over {len(keys)} parameters",
                caption="Each line is a set-up; the brighter, the better.",
                axes=values,
                scores=scores,
                unit=unit,
                higher_is_better=measure.higher_is_better,
                source=source,
            )
        )
    if sweep.is_search:
        figures += _history(sweep, source)
    if len(keys) > 1 and (shares := importance(values, scores)):
        figures.append(_importance(shares, unit, source))
    return figures


def varied(set_ups: Sequence[SetUp]) -> dict[str, list[Value]]:
    """Return the keys, except seeds, that were typed with several values, and the value of each set-up."""
    commands = (str(set_up.records[0].manifest.get("command", "")) for set_up in set_ups)
    typed_words = [
        {key.lstrip("+"): value for key, sep, value in (w.partition("=") for w in shlex.split(c)) if sep}
        for c in commands
    ]
    keys = dict.fromkeys(key for words in typed_words for key in words if key not in SEED_KEYS)
    values = {key: [words.get(key, "–") for words in typed_words] for key in keys}
    return {key: [typed(v) for v in each] for key, each in values.items() if len(set(each)) > 1}


def typed(text: str) -> Value:
    """Return a number where the text is one."""
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text


def importance(values: Mapping[str, Sequence[Value]], scores: Sequence[float]) -> dict[str, float]:
    """Return the share of the scores' variance that each parameter explains, by Optuna's fANOVA.

    {} where Optuna or scikit-learn is not installed, or the scores are all alike.
    """
    try:
        import optuna
        import sklearn  # noqa: F401  (which fANOVA is computed with)
    except ImportError:
        return {}
    finite = [place for place, score in enumerate(scores) if math.isfinite(score)]
    if len(finite) < 3 or len({scores[place] for place in finite}) < 2:
        return {}
    spaces: dict[str, Any] = {}
    for key, each in values.items():
        numbers = [value for value in each if isinstance(value, float)]
        if len(numbers) == len(each) and min(numbers) < max(numbers):
            use_log = min(numbers) > 0 and max(numbers) / min(numbers) > 50
            spaces[key] = optuna.distributions.FloatDistribution(min(numbers), max(numbers), log=use_log)
        elif len(set(each)) > 1:
            spaces[key] = optuna.distributions.CategoricalDistribution(sorted({str(value) for value in each}))
    if len(spaces) < 2:
        return {}
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study()
        for place in finite:
            chosen = {
                key: values[key][place]
                if isinstance(space, optuna.distributions.FloatDistribution)
                else str(values[key][place])
                for key, space in spaces.items()
            }
            study.add_trial(
                optuna.trial.create_trial(params=chosen, distributions=spaces, value=scores[place])
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    finally:
        optuna.logging.set_verbosity(level)


def _score(set_up: SetUp) -> float | None:
    """Return the mean over seeds of the test's final score."""
    tests = [record.summary.test[0] for record in set_up.records if record.summary.test is not None]
    return sum(tests) / len(tests) if tests else None


def _over_one(key: str, values: Sequence[Value], scores: Sequence[float], unit: str, source: str) -> Lines:
    order = sorted(range(len(scores)), key=lambda place: float(values[place]))
    x, y = [float(values[place]) for place in order], [scores[place] for place in order]
    return Lines(
        name="sweep-curve",
        title=f"{unit.capitalize()} over {key}",
        caption="The mean over seeds, where there are several.",
        lines={"": Line(x, y, dots=True)},
        x_label=key,
        y_label=unit,
        log_x=x[0] > 0 and x[-1] / x[0] > 50,
        source=source,
    )


def _over_two(
    keys: Sequence[str],
    values: Mapping[str, Sequence[Value]],
    scores: Sequence[float],
    unit: str,
    source: str,
) -> Surface:
    rows, columns = (
        sorted(set(values[key]), key=lambda value: (isinstance(value, str), value)) for key in keys
    )
    table = torch.full((len(rows), len(columns)), math.nan, dtype=torch.float64)
    for place, score in enumerate(scores):
        table[rows.index(values[keys[0]][place]), columns.index(values[keys[1]][place])] = score
    return Surface(
        name="sweep-heat-map",
        title=f"{unit.capitalize()} over {keys[0]} and {keys[1]}",
        caption="The mean over seeds, where there are several.",
        values=table,
        rows=[_text(value) for value in rows],
        columns=[_text(value) for value in columns],
        x_label=keys[1],
        y_label=keys[0],
        unit=unit,
        source=source,
    )


def _history(sweep: SweepRecord, source: str) -> list[Figure]:
    """Return the validation score of each trial, and the best so far."""
    records = [record for set_up in sweep.set_ups for record in set_up.records]
    numbered = sorted((int(r.path.name), r) for r in records if r.path.name.isdecimal())
    trials = [(number, r.summary.best) for number, r in numbered if r.summary.best is not None]
    if not trials:
        return []
    measure = records[0].measure
    better = max if measure.higher_is_better else min
    factor = 100.0 if measure.percent else 1.0
    x, y = [number for number, _ in trials], [factor * value for _, value in trials]
    best = [better(y[: place + 1]) for place in range(len(y))]
    return [
        Lines(
            name="search-history",
            title="The search, trial by trial",
            caption="The best validation of each trial, also of those that were pruned.",
            lines={"·a trial": Line(x, y, dots=True), "the best so far": Line(x, best)},
            x_label="trial",
            y_label=f"validation {measure.name}{' (%)' if measure.percent else ''}",
            source=source,
        )
    ]


def _importance(shares: Mapping[str, float], unit: str, source: str) -> Bars:
    return Bars(
        name="parameter-importance",
        title="What mattered",
        caption=f"The share of the variance of {unit} that each parameter explains (fANOVA, Hutter et al. "
        "2014).",
        values=shares,
        unit="share of the variance",
        source=source,
    )


def _text(value: Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"
