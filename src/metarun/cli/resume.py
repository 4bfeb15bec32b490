"""`metarun resume DIRECTORY [overrides]`: continue a stopped run or sweep."""

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
    """Continue a run from its last checkpoint, or the missing, half-done and failed jobs of a sweep.

    Raises:
        ConfigError: an override is wrong, or its key may not change.
        MetarunError: the directory holds neither a run nor a sweep, or the training failed.
    """
    parser = argparse.ArgumentParser(
        "metarun resume",
        description="Continue a stopped run or sweep.",
        epilog=f"overrides may set: {', '.join(MAY_CHANGE)}; for a sweep also hydra/launcher and hydra.*",
    )
    parser.add_argument("directory", metavar="DIRECTORY", type=Path, help="outputs/DATE/TIME, or a sweep's")
    parser.add_argument("overrides", nargs="*", help="key=value, as in train.steps=20000")
    add_config_dirs(parser)
    options = parse(parser, arguments[1:])
    if Sweep(options.directory).exists():
        train_sweep(options.directory, options.overrides, options.config_dirs)
        return
    run = Run.open(options.directory)
    node = override(run.config(), options.overrides, options.config_dirs)
    together(lambda: show(launch(node, run.directory, arguments, resume=True), run.directory))


def override(
    trained: dict[str, Any], words: Sequence[str], config_dirs: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a run's config with overrides of single keys and of whole groups applied.

    Raises:
        ConfigError: an override is wrong, or its key may not change.
    """
    config = deepcopy(trained)
    # Groups first: single keys then change the chosen option.
    for parsed in sorted(single_values(words), key=lambda parsed: "." in parsed.key_or_group):
        key = parsed.key_or_group
        if not may_change(key):
            raise ConfigError(
                f"{parsed.input_line}: {key} cannot change on resume{did_you_mean(key, MAY_CHANGE)}; "
                f"choose from {', '.join(MAY_CHANGE)}, or start another run"
            )
        if key == "logger":
            config[key] = compose_config([str(parsed.input_line)], config_dirs).get(key, {})
        elif key in _GROUPS:
            chosen = compose_config([str(parsed.input_line)], config_dirs)[key]
            config[key] = {
                k: v if may_change(f"{key}.{k}") else config[key].get(k, v) for k, v in chosen.items()
            }
        else:
            set_key(config, parsed)
    return config


_GROUPS = ("engine", "train")
"""The groups in which all or nearly all keys may change."""
