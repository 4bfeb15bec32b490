"""`metarun optimizers RUN [overrides]`: compare a run's update rule with tuned SGD, momentum and Adam."""

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
    """Compare the rules, print the table, and save it and the plots in the run's evaluations/.

    Raises:
        ConfigError: an override is wrong, or the learner has no inner loop.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = run_and_overrides(
        "optimizers",
        "Compare a run's update rule with SGD, momentum, RMSProp and Adam, each tuned by a grid of rates on "
        "the validation tasks, over the same inner steps from the same starts.",
        (*OPEN, *_ALSO_OPEN),
    )
    options = parse(parser, arguments[1:])
    trained = reopen(options.run, options.overrides, options.config_dirs, _ALSO_OPEN)
    learner = with_inner_loop(trained.experiment.learner, f"{options.run}: metarun optimizers")
    config = trained.config
    if learner.loop.count(training=False) == 0:
        raise ConfigError("there are no inner steps to compare: type inner.test_steps=1 or more")
    fix(config.seed, "test")
    compared = against_tuned(
        learner,
        trained.experiment.source,
        trained.executor(),
        validation_tasks=config.train.validation_tasks,
        test_tasks=config.train.test_tasks,
    )
    entries = list(chunks_bar("optimizers", compared, 1 + len(HAND_DESIGNED)))
    content = [{"optimizer": entry.name, "lr": entry.lr, **entry.curve.as_dict()} for entry in entries]
    print(optimizers_table(entries))
    for entry in entries:
        told = {"label": {"optimizer": entry.name}, "overrides": options.overrides}
        trained.keep(f"-{entry.name}", {**told, **entry.curve.as_dict()}, entry.curve.each_task)
    path = trained.keep("-optimizers", {"overrides": options.overrides, "optimizers": content})
    if path:
        _draw(entries, path)


def _draw(entries: list[Entry], json_path: Path) -> None:
    if missing := plots_missing():
        print(missing)
        return
    paths = [json_path.with_suffix(".curves.png")]
    draw_curves(entries, paths[0])
    if entries[0].rule.coordinatewise:
        paths.append(json_path.with_suffix(".update.png"))
        draw_response(entries, paths[1])
    for path in paths:
        print(f"drawn: {path}")
