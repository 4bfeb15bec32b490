"""`metarun eval RUN [overrides]`: test a run's best checkpoint again, under other conditions."""

from __future__ import annotations

from functools import partial

from metarun.cli.arguments import parse, run_and_overrides
from metarun.evaluation.curve import evaluate
from metarun.evaluation.trained import OPEN, reopen
from metarun.reports.progress import chunks_bar
from metarun.reports.table import curve_table
from metarun.system.randomness import fix

_ALSO_OPEN = ("train.test_tasks", "engine.workers")


def main(arguments: list[str]) -> None:
    """Test again, print the table, and keep it in the run's evaluations/.

    Raises:
        ConfigError: an override does not fit, or does not bear on a test.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    parser = run_and_overrides("eval", "Test a run's best checkpoint again.", (*OPEN, *_ALSO_OPEN))
    given = parse(parser, arguments[1:])
    trained = reopen(given.run, given.overrides, given.config_dirs, _ALSO_OPEN)
    config, experiment = trained.config, trained.experiment
    fix(config.seed, "test")
    curve = evaluate(
        experiment.learner,
        experiment.source,
        "test",
        config.train.test_tasks,
        trained.executor(),
        show=partial(chunks_bar, "test"),
    )
    print(curve_table(curve))
    trained.keep("", {"overrides": given.overrides, **curve.as_dict()})
