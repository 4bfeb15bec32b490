"""A training with its directory held and its table shown."""

from __future__ import annotations

import logging

from metarun.config import Config
from metarun.reports.table import curve_table
from metarun.runs.directory import Run
from metarun.train import train

log = logging.getLogger("metarun")


def launch(config: Config, run: Run) -> None:
    """Train a run to its end, print the table and where the run is.

    Raises:
        MetarunError: the run is in use, or the training failed.
        Interrupted: it was stopped, and can be resumed.
    """
    with run.occupied():
        log.info("run: %s", run.directory)
        table = curve_table(train(config, run))
        print(f"\n{table}\n\nrun: {run.directory}")
