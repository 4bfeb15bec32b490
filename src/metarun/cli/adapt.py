"""`metarun adapt RUN --support FILES --out MODEL`: write an adapted learner to a file."""

from __future__ import annotations

from pathlib import Path

from metarun.cli.arguments import check_out, learner_parser, parse
from metarun.errors import ConfigError
from metarun.evaluation.prediction.model_file import save_model
from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.usable import OPEN


def main(arguments: list[str]) -> None:
    """Adapt a run's best learner, and write it into a file that `metarun predict` reads.

    Raises:
        ConfigError: an argument is wrong, or the examples do not fit the run.
        MetarunError: the directory holds no run, or the run has no checkpoint.
    """
    parser = learner_parser(
        "adapt",
        "Adapt a run's best learner to labelled examples, and keep it in a file.",
        OPEN,
        "inner.test_steps=10",
        adapted=False,
    )
    parser.add_argument("--support", type=Path, required=True, help="class folders, a csv, or a file of rows")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the file")
    options = parse(parser, arguments[1:])
    check_out("--out", options.out)
    if options.run.is_file():
        raise ConfigError(f"{options.run}: expected a run's directory; a file's learner is adapted already")
    model = opened(options.run, options.support, options.overrides)
    model.check()
    save_model(options.out, model)
    of_classes = f" of {len(model.classes)} classes" if model.classes else ""
    print(f"{options.out}: {len(model.support.names)} labelled examples{of_classes}")
    for name, why in model.support.notes.left_out.items():
        print(f"left out: {name} is {why}")
    print(f"\nto use it: metarun predict {options.out} --query FILES")
