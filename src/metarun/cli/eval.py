"""`metarun eval RUN [overrides]`: re-test a run's best checkpoint with other settings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from metarun.cli.arguments import parse, run_and_overrides
from metarun.config.options import CONF, groups
from metarun.evaluation.curve import evaluate
from metarun.evaluation.domains import Domain, Tested, on_domains
from metarun.evaluation.trained import OPEN, keep, reopen
from metarun.reports.domains import domains_table
from metarun.reports.progress import chunks_bar
from metarun.reports.table import curve_table
from metarun.runs.directory import Run
from metarun.system.randomness import fix
from metarun.tasks.description import class_names, elsewhere

_ALSO_OPEN = ("train.test_tasks", "train.test_curve", "engine.workers")


def main(arguments: list[str]) -> None:
    """Re-test the best checkpoint, print the table, and save it in the run's evaluations/.

    Raises:
        ConfigError: an override is wrong, or its key may not differ between training and test.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = run_and_overrides("eval", "Re-test a run's best checkpoint.", (*OPEN, *_ALSO_OPEN))
    parser.add_argument(
        "--on",
        metavar="DATA,…",
        help="test on other datasets: names of data=, with a folder where one is needed, as in "
        "cub,omniglot,folder:photographs",
    )
    options = parse(parser, arguments[1:])
    if options.on is not None:
        _on_others(options)
        return
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
    if other := elsewhere(experiment.source).get("test_data"):
        print(f"\nthe test tasks are of {other['name']}{', ' * bool(other['fitted'])}{other['fitted']}")
    names = {**class_names(experiment.source, "test"), **elsewhere(experiment.source)}
    trained.keep("", {"overrides": options.overrides, **curve.as_dict(), **names}, curve.each_task)


def _on_others(options: Any) -> None:
    """Test on each dataset, print a line for each, and save the tests in the run's evaluations/."""
    folders = [CONF, *(Path(folder) for folder in options.config_dirs)]
    domains = Domain.read(options.on, [option.name for option in groups(folders)["data"]])
    tests = on_domains(options.run, domains, options.overrides, options.config_dirs)
    tested: list[Tested] = []
    try:
        tested.extend(chunks_bar("datasets", tests, len(domains)))
    finally:  # what was tested before a dataset was missing is not lost
        if tested:
            _show(options, tested)


def _show(options: Any, tested: Sequence[Tested]) -> None:
    """Print the tests and save them in the run's evaluations/: all in one file, and each for a comparison."""
    print(domains_table(tested))
    for test in tested:
        content = {"overrides": test.overrides, **test.curve.as_dict(), **test.content}
        test.trained.keep(f"-on-{test.domain.name}", content, test.curve.each_task)
    rows = [
        {"data": test.domain.typed, "images": test.fitted, **test.curve.as_dict(), **test.content}
        for test in tested
    ]
    keep(Run.open(options.run), "-domains", {"overrides": options.overrides, "domains": rows})
