"""`metarun eval RUN [overrides]`: re-test a run's best checkpoint with other settings."""

from __future__ import annotations

from functools import partial

from metarun.cli.arguments import parse, run_and_overrides
from metarun.evaluation.curve import evaluate
from metarun.evaluation.trained import OPEN, reopen
from metarun.reports.progress import chunks_bar
from metarun.reports.table import curve_table
from metarun.system.randomness import fix
from metarun.tasks.description import class_names

_ALSO_OPEN = ("train.test_tasks", "train.test_curve", "engine.workers")


def main(arguments: list[str]) -> None:
    """Re-test the best checkpoint, print the table, and save it in the run's evaluations/.

    Raises:
        ConfigError: an override is wrong, or its key may not differ between training and test.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = run_and_overrides("eval", "Re-test a run's best checkpoint.", (*OPEN, *_ALSO_OPEN))
    options = parse(parser, arguments[1:])
    trained = reopen(options.run, options.overrides, options.config_dirs, _ALSO_OPEN)
    config, experiment = trained.config, trained.experiment
    fix(config.seed, "test")
    curve = evaluate(
        experiment.learner,
        experiment.source,
        "test",
        config.train.test_tasks,
        trained.executor(),
        show=partial(chunks_bar, "test"),
        over_examples=config.train.test_curve,
    )
    print(curve_table(curve))
    names = class_names(experiment.source, "test")
    trained.keep("", {"overrides": options.overrides, **curve.as_dict(), **names})
