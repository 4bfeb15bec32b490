"""`metarun tables RUN`: test a run on scikit-learn's real tables, beside classical models."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.cli.arguments import add_config_dirs, parse
from metarun.errors import ConfigError
from metarun.evaluation.real_tables import Row, beside_classical, fitting_tables
from metarun.evaluation.trained import Trained, reopen
from metarun.learners.baselines.classical import METHODS
from metarun.reports.progress import chunks_bar
from metarun.reports.real_tables import real_tables
from metarun.runs.directory import Run
from metarun.system.randomness import fix
from metarun.tasks.tables.bundled import Table


def main(arguments: list[str]) -> None:
    """Test the run, logistic or ridge regression, a random forest and nearest neighbours; print one table.

    Raises:
        ConfigError: the run was not trained on tables, or an override is wrong.
        MetarunError: the directory holds no run, the run has no checkpoint, or scikit-learn is not installed.
    """
    parser = argparse.ArgumentParser(
        "metarun tables",
        description="Test a run that was trained on data=tabular_prior on random halves of real tables: "
        "breast_cancer, wine, iris and digits, or diabetes for values.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in algo.ensemble=8")
    parser.add_argument("--halves", type=int, default=20, help="random halves of each table (20)")
    parser.add_argument("--rows", type=int, default=128, help="support rows, at most (128)")
    add_config_dirs(parser)
    options = parse(parser, arguments[1:])
    for flag in ("halves", "rows"):
        if getattr(options, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(options, flag)}: should be 1 or more")
    config = Run.open(options.run).config()
    data = config["data"]
    if "most_classes" not in data or "width" not in data:
        raise ConfigError(f"{options.run}: it was trained on {data['_target_']}: expected data=tabular_prior")

    def reopened(table: Table) -> Trained:
        keys = {"table": table, "shot": options.rows, **{key: data[key] for key in ("width", "most_classes")}}
        words = ["data=tables", *(f"data.{key}={value}" for key, value in keys.items())]
        return reopen(options.run, [*words, *options.overrides], options.config_dirs)

    runs = {table: reopened(table) for table in fitting_tables(data)}
    fix(config["seed"], "test")
    compared = beside_classical(runs, options.halves)
    rows: list[Row] = list(chunks_bar("tables", compared, 1 + len(METHODS)))
    print(real_tables(rows, options.halves))
    content = [
        {"predictor": row.name, "tables": {name: curve.as_dict() for name, curve in row.curves.items()}}
        for row in rows
    ]
    settings = {"halves": options.halves, "rows": options.rows, "overrides": options.overrides}
    next(iter(runs.values())).keep("-tables", {**settings, "predictors": content})
