"""`metarun continual RUN [overrides]`: adapt to one task after another, tested on all before."""

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
    """Let the learner follow streams of tasks, print the table, and save it in the run's evaluations/.

    Raises:
        ConfigError: a flag or an override is wrong, or the learner has no inner loop.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = run_and_overrides(
        "continual",
        "Adapt to one test task after another without resetting the parameters, and test on all after each.",
        OPEN,
    )
    parser.add_argument("--tasks", type=int, default=5, help="tasks in a stream (5)")
    parser.add_argument("--streams", type=int, default=200, help="streams to average over (200)")
    options = parse(parser, arguments[1:])
    for flag in ("tasks", "streams"):
        if getattr(options, flag) < 1:
            raise ConfigError(f"--{flag} {getattr(options, flag)}: should be 1 or more")
    trained = reopen(options.run, options.overrides, options.config_dirs)
    learner = with_inner_loop(trained.experiment.learner, f"{options.run}: metarun continual")
    fix(trained.config.seed, "test")
    stream = follow_streams(
        learner,
        trained.experiment.source,
        trained.executor(),
        tasks=options.tasks,
        streams=options.streams,
        show=partial(chunks_bar, "streams"),
    )
    print(stream_table(stream))
    trained.keep("-continual", {"overrides": options.overrides, **asdict(stream)})


def stream_table(stream: Stream) -> str:
    """Return the table of the selection measure on each task after each task, its mean and the forgetting."""
    measure = selected_by(stream.measures)
    name = measure.name
    tasks = range(len(stream.scores))
    rows = [
        [label, *(cell(measure, scores[name].mean, scores[name].ci95) for scores in row)]
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
        forgetting = stream.forgetting[name]
        lines.append(f"forgotten since each was learned: {cell(measure, forgetting.mean, forgetting.ci95)}")
    return "\n".join(lines)
