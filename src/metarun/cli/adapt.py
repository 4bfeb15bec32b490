"""`metarun adapt RUN --support FILES --out MODEL`: keep a learner that has seen examples, in a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.cli.arguments import parse
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
    parser = argparse.ArgumentParser(
        "metarun adapt",
        description="Adapt a run's best learner to labelled examples, and keep it in a file.",
        epilog=f"overrides may set: {', '.join(OPEN)}",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in inner.test_steps=10")
    parser.add_argument("--support", type=Path, required=True, help="class folders, a csv, or a file of rows")
    parser.add_argument("--out", type=Path, required=True, metavar="MODEL.safetensors", help="the file")
    options = parse(parser, arguments[1:])
    if not options.out.parent.is_dir() or options.out.is_dir():
        raise ConfigError(f"--out {options.out}: expected a file in a folder that is there")
    if options.run.is_file():
        raise ConfigError(f"{options.run}: expected a run's directory; a file has seen its examples")
    model = opened(options.run, options.support, options.overrides)
    model.check()
    save_model(options.out, model)
    of_classes = f" of {len(model.classes)} classes" if model.classes else ""
    print(f"{options.out}: {len(model.support.names)} labelled examples{of_classes}")
    for name, why in model.support.notes.left_out.items():
        print(f"left out: {name} is {why}")
    print(f"\nto use it: metarun predict {options.out} --query FILES")
