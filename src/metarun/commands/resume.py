"""`metarun resume RUN`: continue a stopped run where it was."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from metarun.config import Config, read_config
from metarun.runs.directory import Run

log = logging.getLogger("metarun")


def main(arguments: list[str]) -> None:
    """Continue a run in place.

    Raises:
        MetarunError: the directory is not a run's, or its checkpoint is damaged.
    """
    parser = argparse.ArgumentParser("metarun", description="Continue a stopped run where it was.")
    parser.add_argument("resume", help=argparse.SUPPRESS)
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    run = Run.open(parser.parse_args(arguments).run)
    train_and_report(read_config(run.config()), run)


def train_and_report(config: Config, run: Run) -> None:
    """Train a run to its end, print the table and where the run is."""
    from metarun.reports.table import curve_table
    from metarun.train import train

    with run.occupied():
        log.info("run: %s", run.directory)
        table = curve_table(train(config, run))
        print(f"\n{table}\n\nrun: {run.directory}")
