"""`metarun continual RUN [overrides]`: task after task, tested on all that came before."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

from tabulate import tabulate

from metarun.cli.arguments import parse, run_and_overrides
from metarun.errors import ConfigError
from metarun.evaluation.streams import Stream, follow_streams
from metarun.evaluation.trained import OPEN, reopen
from metarun.learners import with_inner_loop
from metarun.reports.progress import chunks_bar
from metarun.reports.table import cell, heading
from metarun.system.randomness import fix
from metarun.tasks.metrics import selected_by


def main(arguments: list[str]) -> None:
    """Let the learner follow streams, print the tables, and keep them in the run's evaluations/.

    Raises:
        ConfigError: a flag or an override does not fit, or the learner has no inner loop.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    parser = run_and_overrides(
        "continual",
        "Adapt to one test task after another without a new start, and test on all of them after each.",
        OPEN,
    )
    parser.add_argument("--tasks", type=int, default=5, help="of a stream (5)")
    parser.add_argument("--streams", type=int, default=200, help="to average over (200)")
    given = parse(parser, arguments[1:])
    for flag in ("tasks", "streams"):
        if getattr(given, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(given, flag)}: should be 1 or more")
    trained = reopen(given.run, given.overrides, given.config_dirs)
    learner = with_inner_loop(trained.experiment.learner, f"{given.run}: metarun continual")
    fix(trained.config.seed, "test")
    stream = follow_streams(
        learner,
        trained.experiment.source,
        trained.executor(),
        tasks=given.tasks,
        streams=given.streams,
        show=partial(chunks_bar, "streams"),
    )
    print(stream_table(stream))
    trained.keep("-continual", {"overrides": given.overrides, **asdict(stream)})


def stream_table(stream: Stream) -> str:
    """Return the score that matters on each task after each task, its mean and what was forgotten."""
    measure = selected_by(stream.measures)
    name = measure.name
    tasks = range(len(stream.scores))
    rows = [
        [label, *(cell(measure, each[name].mean, each[name].ci95) for each in row)]
        for label, row in zip(
            ["before", *(f"after {i + 1}" for i in tasks)], [stream.start, *stream.scores], strict=True
        )
    ]
    heads = [heading(measure), *(f"task {i + 1}" for i in tasks)]
    lines = [
        f"test: {stream.streams:,} streams of {len(tasks)} tasks, mean ± 95 % confidence interval",
        tabulate(rows, heads, tablefmt="simple", disable_numparse=True, stralign="right"),
        f"at the end, over all tasks: {cell(measure, stream.average[name].mean, stream.average[name].ci95)}",
    ]
    if stream.forgetting:
        lost = stream.forgetting[name]
        lines.append(f"forgotten since each was learned: {cell(measure, lost.mean, lost.ci95)}")
    return "\n".join(lines)
