"""`metarun resume DIRECTORY [overrides]`: continue a stopped run, or a sweep, where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from metarun.commands.arguments import parse
from metarun.commands.run import train_sweep
from metarun.errors import ConfigError
from metarun.launch import launch, show, together
from metarun.overrides import set_key, single_values
from metarun.runs.changes import MAY_CHANGE, may_change
from metarun.runs.directory import Run
from metarun.suggest import did_you_mean
from metarun.sweeps.directory import Sweep


def main(arguments: list[str]) -> None:
    """Continue in place: a run from its last checkpoint; of a sweep what is missing, half done or failed.

    Raises:
        ConfigError: an override does not fit, or is of a key that a run keeps.
        MetarunError: the directory is neither a run's nor a sweep's, or the training failed.
    """
    parser = argparse.ArgumentParser(
        "metarun resume",
        description="Continue a stopped run, or a sweep, where it was.",
        epilog=f"overrides of: {', '.join(MAY_CHANGE)}; of a sweep also of hydra/launcher and hydra.*",
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="outputs/DATE/TIME, or a sweep's")
    parser.add_argument("overrides", nargs="*", help="key=value, as in train.steps=20000")
    given = parse(parser, arguments[1:])
    if Sweep(given.directory).exists():
        train_sweep(given.directory, given.overrides)
        return
    run = Run.open(given.directory)
    node = override(run.config(), given.overrides)
    together(lambda: show(launch(node, run.directory, arguments, resume=True), run.directory))


def override(trained: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return a run's config with some of the keys replaced that may be.

    Raises:
        ConfigError: a word does not fit, or its key is one that a run keeps.
    """
    config = deepcopy(trained)
    for each in single_values(words):
        key = each.key_or_group
        if not may_change(key):
            raise ConfigError(
                f"{each.input_line}: a run keeps {key} for all its life{did_you_mean(key, MAY_CHANGE)}; "
                f"choose from {', '.join(MAY_CHANGE)}, or start another run"
            )
        set_key(config, each)
    return config
