"""`metarun resume RUN`: continue a stopped run where it was."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.commands.arguments import parse
from metarun.config import read_config
from metarun.launch import launch
from metarun.runs.directory import Run


def main(arguments: list[str]) -> None:
    """Continue a run in place.

    Raises:
        MetarunError: the directory is not a run's, or its checkpoint is damaged.
    """
    parser = argparse.ArgumentParser("metarun resume", description="Continue a stopped run where it was.")
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    run = Run.open(parse(parser, arguments[1:]).run)
    launch(read_config(run.config()), run)
