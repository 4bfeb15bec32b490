"""`metarun key=value …`: Hydra composes the config, one run or a sweep of them is trained."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.build import check_fit, chosen_device
from metarun.commands.resume import train_and_report
from metarun.compose import COMPOSITION_ERRORS, compose_config, explain, plain, register_resolvers
from metarun.config import read_config
from metarun.errors import MetarunError
from metarun.options import CONF
from metarun.runs.directory import Run
from metarun.runs.manifest import manifest

log = logging.getLogger("metarun")

# What ended the run of this process. Raised inside Hydra's job it would print lines of Hydra's own.
_failures: list[MetarunError] = []


def main(arguments: list[str]) -> None:
    """Train as the overrides say.

    Raises:
        ConfigError: the overrides do not make a config; nothing has been written then.
        MetarunError: the training failed.
    """
    register_resolvers()
    parser = get_args_parser()
    parser.prog = "metarun"
    flags = parser.parse_intermixed_args(arguments)
    if not (flags.cfg or flags.info or flags.hydra_help or flags.shell_completion or flags.multirun):
        # Hydra makes the run's directory before it calls us, and a wrong config should not leave one.
        check_fit(read_config(compose_config(flags.overrides, flags.config_dir)))
    # Hydra reads sys.argv, and ends the process itself unless this variable lets its errors through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Its own parser wants all overrides in one place.
    sys.argv = ["metarun", *(word for word in arguments if word not in flags.overrides), *flags.overrides]
    try:
        _hydra_main()
    except COMPOSITION_ERRORS as error:
        raise explain(error, flags.overrides, flags.config_dir) from error
    if _failures:
        raise _failures.pop()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(node: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    if hydra_config.mode == RunMode.MULTIRUN:
        log.info("job %d: %s", hydra_config.job.num, hydra_config.job.override_dirname or "the defaults")
    try:
        _one_run(plain(node), directory)
    except MetarunError as error:
        if (
            hydra_config.mode == RunMode.MULTIRUN
        ):  # the other jobs go on, and Hydra shows the first failure only
            log.error("job %d failed: %s", hydra_config.job.num, error)
            raise
        _failures.append(error)


def _one_run(node: dict[str, Any], directory: Path) -> None:
    """Check a composed config, train in a directory, and print the table."""
    config = read_config(node)
    run = Run.create(directory, node, manifest(sys.argv[1:], config.seed, chosen_device(config.device)))
    train_and_report(config, run)
