"""A run's learner beside classical models, on the real tables that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from metarun.engine.executor import Executor
from metarun.engine.settings import Engine
from metarun.evaluation.curve import Curve, evaluate
from metarun.evaluation.trained import Trained
from metarun.learners import Learner
from metarun.learners.baselines.classical import METHODS, Classical
from metarun.tasks import targets_of
from metarun.tasks.tables.bundled import SIZES, Table

NAMES = {"linear": "linear model", "forest": "random forest", "neighbours": "nearest neighbours"}
"""How tables call the methods of `Classical`."""


def fitting_tables(trained: Mapping[str, Any]) -> list[Table]:
    """Return the tables whose targets are those of a run's data."""
    of_values = trained.get("target") == "values"
    return [table for table, (_, ways) in SIZES.items() if (ways == 0) == of_values]


@dataclass(frozen=True)
class Row:
    """A predictor and its test on each table, by the table's name."""

    name: str
    curves: Mapping[Table, Curve]


def beside_classical(runs: Mapping[Table, Trained], halves: int) -> Iterator[Row]:
    """Yield the run's learner, then each classical model, tested on the same halves of the same tables.

    Args:
        runs: the run, reopened with the data of each table.
        halves: number of random halves of each.
    """

    def tested(learner: Learner[Any], trained: Trained, executor: Executor) -> Curve:
        return evaluate(learner, trained.experiment.source, "test", halves, executor)

    own = {t: tested(run.experiment.learner, run, run.executor()) for t, run in runs.items()}
    yield Row("this run", own)
    for method in METHODS:
        curves = {}
        for table, run in runs.items():
            source = run.experiment.source
            assert source.output_size is not None
            classes, targets = source.output_size, targets_of(source)
            learner = Classical(method=method, output_size=classes, targets=targets, seed=run.config.seed)
            curves[table] = tested(learner, run, Executor(Engine(chunk=1), learner))
        yield Row(NAMES[method], curves)
