"""`metarun key=value …`: Hydra composes the config, one run or a sweep of them is trained."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.build import check_fit, chosen_device
from metarun.commands.arguments import parse
from metarun.compose import COMPOSITION_ERRORS, compose_config, explain, plain, register_resolvers
from metarun.config import read_config
from metarun.errors import ConfigError, MetarunError
from metarun.launch import launch
from metarun.options import CONF
from metarun.runs.directory import Run
from metarun.runs.manifest import manifest

log = logging.getLogger("metarun")

# What ended the run of this process. Raised inside Hydra's job it would print lines of Hydra's own.
_failures: list[MetarunError | OSError] = []

# A mistake shows in the first jobs of a sweep as a rule; checking takes a tenth of a second each.
_CHECKED_JOBS = 64


def main(arguments: list[str]) -> None:
    """Train as the overrides say.

    Raises:
        ConfigError: the overrides do not make a config; nothing has been written then.
        MetarunError: the training failed.
    """
    register_resolvers()
    parser = get_args_parser()
    parser.prog = "metarun"
    flags = parse(parser, arguments)
    shows_only = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    own_root = flags.config_name or flags.config_path or flags.experimental_rerun
    if flags.config_dir and not Path(flags.config_dir).is_dir():
        raise ConfigError(f"--config-dir {flags.config_dir}: it is not a folder")
    # Another sweeper makes its own combinations, and has its own words for them.
    other_sweeper = any(word.lstrip("+").startswith("hydra/sweeper") for word in flags.overrides)
    if not (shows_only or own_root or other_sweeper):
        # Hydra makes directories before it calls us, and a wrong config should not leave any.
        for overrides in _jobs(flags.overrides) if flags.multirun else [flags.overrides]:
            check_fit(read_config(compose_config(overrides, flags.config_dir)))
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


def _jobs(overrides: list[str]) -> list[list[str]]:
    """Return the overrides of the first jobs of a sweep, as Hydra's own sweeper combines them."""
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):  # glob(…) asks it for a group's options
            loader = GlobalHydra.instance().config_loader()
            parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
        combined = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides) from error
    jobs: list[list[str]] = [list(job) for batch in combined for job in batch]
    if not jobs:
        raise ConfigError(f"{' '.join(overrides)}: these choices make no job")
    return jobs[:_CHECKED_JOBS]


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(node: DictConfig) -> None:
    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    one_of_many = hydra_config.mode == RunMode.MULTIRUN
    if one_of_many:
        log.info("job %d: %s", hydra_config.job.num, hydra_config.job.override_dirname or "the defaults")
    own = [each.path for each in hydra_config.runtime.config_sources if each.provider == "command-line"]
    words = [*(f"--config-dir={folder}" for folder in own), *hydra_config.overrides.task]
    try:
        _one_run(plain(node), directory, words)
    except (MetarunError, OSError) as error:
        if one_of_many:  # the other jobs go on, and Hydra shows the first failure only
            log.error("job %d failed: %s", hydra_config.job.num, error)
            raise
        _failures.append(error)


def _one_run(node: dict[str, Any], directory: Path, words: list[str]) -> None:
    """Check a composed config, and train in a directory."""
    config = read_config(node)
    run = Run.create(directory, node, manifest(words, config.seed, chosen_device(config.device)))
    launch(config, run)
