"""`metarun resume DIRECTORY [overrides]`: continue a stopped run, or a sweep, where it was."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from metarun.cli.arguments import add_config_dirs, parse
from metarun.cli.run import train_sweep
from metarun.config.composition import compose_config
from metarun.config.overrides import set_key, single_values
from metarun.errors import ConfigError, did_you_mean
from metarun.runs.changes import MAY_CHANGE, may_change
from metarun.runs.directory import Run
from metarun.sweeps.directory import Sweep
from metarun.training.launch import launch, show, together


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
    add_config_dirs(parser)
    given = parse(parser, arguments[1:])
    if Sweep(given.directory).exists():
        train_sweep(given.directory, given.overrides, given.config_dirs)
        return
    run = Run.open(given.directory)
    node = override(run.config(), given.overrides, given.config_dirs)
    together(lambda: show(launch(node, run.directory, arguments, resume=True), run.directory))


def override(
    trained: dict[str, Any], words: Sequence[str], config_dirs: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a run's config with some of the keys replaced that may be, or a group of them by an option.

    Raises:
        ConfigError: a word does not fit, or its key is one that a run keeps.
    """
    config = deepcopy(trained)
    # Groups first: single keys are meant for the option that was chosen.
    for each in sorted(single_values(words), key=lambda each: "." in each.key_or_group):
        key = each.key_or_group
        if not may_change(key):
            raise ConfigError(
                f"{each.input_line}: a run keeps {key} for all its life{did_you_mean(key, MAY_CHANGE)}; "
                f"choose from {', '.join(MAY_CHANGE)}, or start another run"
            )
        if key in _GROUPS:
            chosen = compose_config([str(each.input_line)], config_dirs)[key]
            config[key] = {
                k: v if may_change(f"{key}.{k}") else config[key].get(k, v) for k, v in chosen.items()
            }
        else:
            set_key(config, each)
    return config


_GROUPS = ("engine", "train")
"""Those all of whose keys may change, or nearly all."""
