"""Training in Python."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from metarun.api.runs import Run
from metarun.config.composition import compose_config, compose_with_choices
from metarun.errors import with_keys
from metarun.experiment.build import check_fit
from metarun.experiment.config import read_config
from metarun.training.launch import launch


@with_keys()
def train(*overrides: str, directory: str | Path | None = None, config_dirs: Sequence[str] = ()) -> Run:
    """Train and test, as `metarun overrides` does, and return the run.

    A directory that holds an unfinished run of the same config is resumed; a finished one is returned.

    Args:
        *overrides: as on the command line, "algo=metasgd", "data=omniglot".
        directory: of the run; None: outputs/DATE/TIME-….
        config_dirs: a user's own folders of groups.

    Raises:
        ConfigError: a setting is wrong; nothing has been written.
        MetarunError: the training failed.
        Interrupted: it was stopped; the same call goes on.
    """
    node, choices = compose_with_choices(overrides, config_dirs)
    check_fit(read_config(node))
    place = _new() if directory is None else Path(directory)
    launch(node, place, [*(f"--config-dir={folder}" for folder in config_dirs), *overrides], choices=choices)
    return Run(place)


@with_keys()
def compose(*overrides: str, config_dirs: Sequence[str] = ()) -> dict[str, Any]:
    """Return the whole config of these overrides, as plain values; nothing is run.

    Raises:
        ConfigError: they do not compose.
    """
    return compose_config(overrides, config_dirs)


def _new() -> Path:
    now = datetime.now()
    return Path("outputs") / f"{now:%Y-%m-%d}" / f"{now:%H-%M-%S}-{secrets.token_hex(3)}"
