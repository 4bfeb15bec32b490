"""`metarun optimizers RUN [overrides]`: a run's update rule against tuned SGD, momentum, RMSProp and Adam."""

from __future__ import annotations

from pathlib import Path

from metarun.cli.arguments import parse, run_and_overrides
from metarun.errors import ConfigError
from metarun.evaluation.trained import OPEN, reopen
from metarun.evaluation.tuned import HAND_DESIGNED, Entry, against_tuned
from metarun.learners import with_inner_loop
from metarun.reports.optimizers import draw_curves, draw_response, optimizers_table, plots_missing
from metarun.reports.progress import chunks_bar
from metarun.system.randomness import fix

_ALSO_OPEN = ("train.validation_tasks", "train.test_tasks", "engine.workers")


def main(arguments: list[str]) -> None:
    """Compare, print the table, and keep it and the plots in the run's evaluations/.

    Raises:
        ConfigError: an override does not fit, or the learner has no inner loop.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    parser = run_and_overrides(
        "optimizers",
        "Compare a run's update rule with SGD, momentum, RMSProp and Adam, each tuned by a grid of rates on "
        "the validation tasks, over the same inner steps from the same starts.",
        (*OPEN, *_ALSO_OPEN),
    )
    given = parse(parser, arguments[1:])
    trained = reopen(given.run, given.overrides, given.config_dirs, _ALSO_OPEN)
    learner = with_inner_loop(trained.experiment.learner, f"{given.run}: metarun optimizers")
    config = trained.config
    if learner.loop.count(training=False) == 0:
        raise ConfigError("without inner steps there is nothing to compare: type inner.test_steps=1 or more")
    fix(config.seed, "test")
    compared = against_tuned(
        learner,
        trained.experiment.source,
        trained.executor(),
        validation_tasks=config.train.validation_tasks,
        test_tasks=config.train.test_tasks,
    )
    entries = list(chunks_bar("optimizers", compared, 1 + len(HAND_DESIGNED)))
    content = [{"optimizer": each.name, "lr": each.lr, **each.curve.as_dict()} for each in entries]
    print(optimizers_table(entries))
    kept = trained.keep("-optimizers", {"overrides": given.overrides, "optimizers": content})
    if kept:
        _draw(entries, kept)


def _draw(entries: list[Entry], kept: Path) -> None:
    if missing := plots_missing():
        print(missing)
        return
    paths = [kept.with_suffix(".curves.png")]
    draw_curves(entries, paths[0])
    if entries[0].rule.coordinatewise:
        paths.append(kept.with_suffix(".update.png"))
        draw_response(entries, paths[1])
    for path in paths:
        print(f"drawn: {path}")
