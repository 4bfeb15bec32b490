"""`metarun key=value …`: compose the config with Hydra, and train one run or a sweep."""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.cli.arguments import parse
from metarun.config.composition import (
    COMPOSITION_ERRORS,
    SEARCH_PATH,
    choices_of,
    compose_config,
    explain,
    own_config_dirs,
    plain,
    prepare_hydra,
    quoted,
    search_path,
)
from metarun.config.options import CONF, check_config_dirs
from metarun.config.overrides import single_values
from metarun.config.private import argument_parser
from metarun.errors import ConfigError, MetarunError, did_you_mean, in_one_line
from metarun.experiment.build import check_fit
from metarun.experiment.config import read_config
from metarun.runs.changes import MAY_CHANGE, may_change
from metarun.runs.holding import held
from metarun.sweeps.directory import Sweep
from metarun.sweeps.grid import combinations
from metarun.sweeps.job import run_job
from metarun.training.launch import launch, show, together

# The error that ended the run. If it were raised inside Hydra's job, Hydra would print lines of its own.
_failures: list[MetarunError | OSError] = []

# Most mistakes already show in the first jobs of a sweep; checking a job takes a tenth of a second.
_CHECKED_JOBS = 64


def main(arguments: list[str]) -> None:
    """Train the run or the sweep that the overrides define.

    Raises:
        ConfigError: the overrides make no valid config; nothing has been written.
        MetarunError: the training failed.
    """
    together(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    prepare_hydra()
    config_dirs, arguments = _split_config_dirs(arguments)
    parser = argument_parser()
    parser.prog = "metarun"
    flags = parse(parser, arguments)
    overrides: list[str] = flags.overrides
    shows_only = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    other_root = flags.config_name or flags.config_path or flags.experimental_rerun
    check_config_dirs(config_dirs)
    if flags.multirun:
        config_dirs = _with_dirs_of_sweep(config_dirs, overrides)
    if not (shows_only or other_root):
        # Hydra creates directories before it calls us; a wrong config should not leave any.
        searches = flags.multirun and _sweeper(overrides) == "optuna"
        jobs = _jobs(overrides, config_dirs) if flags.multirun else [overrides]
        for number, words in enumerate(jobs):
            config = read_config(compose_config(words, config_dirs))
            try:
                check_fit(config)
            except ConfigError as error:
                if len(jobs) == 1:
                    raise
                raise ConfigError(f"job {number}, {' '.join(words)}: {error}") from error
            if searches and not config.train.validate_every:
                raise ConfigError(
                    "train.validate_every=0: a search needs validations; type train.validate_every=100"
                )
    words = [word for word in arguments if word not in overrides]
    if flags.multirun and _sweeper(overrides) == "grid":
        overrides = _for_each_job(overrides)
    try:
        _compose_and_train(words, overrides, config_dirs)
    except (MetarunError, OSError):
        raise
    except Exception as error:
        if not (shows_only or other_root or flags.resolve):
            raise
        raise ConfigError(f"{' '.join(words)}: {in_one_line(error)}; see metarun --hydra-help") from error


def _split_config_dirs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return a user's folders of groups, from --config-dir or hydra.searchpath, and the other arguments."""
    parser = argparse.ArgumentParser("metarun", add_help=False, allow_abbrev=False)
    spellings = [f"--config-{'dir'[:length]}" for length in (3, 2, 1)]  # Hydra's parser accepts them all
    parser.add_argument(*spellings, "-cd", dest="config_dir", action="append", default=[])
    flags, others = parser.parse_known_args(arguments)
    search_paths = [word for word in others if word.lstrip("+").startswith(f"{SEARCH_PATH}=")]
    for override in single_values(search_paths):
        folders = override.value()
        if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
            raise ConfigError(
                f"{override.input_line}: should be a list of folders, as in {SEARCH_PATH}=[file://myconf]"
            )
        flags.config_dir += [str(folder).removeprefix("file://") for folder in folders]
    return flags.config_dir, [word for word in others if word not in search_paths]


def _with_dirs_of_sweep(config_dirs: list[str], overrides: Sequence[str]) -> list[str]:
    """Return a user's own folders of groups, and those of the existing sweep if hydra.sweep.dir names one."""
    typed = [word for word in overrides if word.startswith("hydra.sweep.dir=")]
    directory = single_values(typed)[-1].value() if typed else None
    return Sweep(Path(directory)).all_config_dirs(config_dirs) if isinstance(directory, str) else config_dirs


def _compose_and_train(flags: list[str], overrides: list[str], config_dirs: list[str]) -> None:
    # Hydra reads sys.argv; without this variable it would end the process instead of raising its errors.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Hydra's parser expects all overrides in one place.
    search_paths = [search_path(config_dirs)] if config_dirs else []
    sys.argv = ["metarun", *flags, *overrides, *search_paths]
    try:
        _hydra_main()
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides, config_dirs) from error
    if _failures:
        raise _failures.pop()


def train_sweep(directory: Path, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> None:
    """Continue a sweep: run the missing, half-done and failed jobs.

    Args:
        directory: of the sweep.
        overrides: of keys that may change, for all jobs; of Hydra's own keys, for the sweep.
        config_dirs: a user's own folders of groups, in addition to those the sweep was started with.

    Raises:
        ConfigError: a folder that the sweep was started with is gone, or an override's key may not change.
        MetarunError: jobs have failed.
    """
    of_sweep: list[str] = []
    of_jobs: list[str] = []
    for override in single_values(overrides):
        key = override.key_or_group
        if key.startswith("hydra.sweep."):
            raise ConfigError(f"{override.input_line}: the folders of a sweep cannot change on resume")
        of_hydra = key.split(".")[0].split("/")[0] == "hydra"
        if not of_hydra and not may_change(key):
            raise ConfigError(
                f"{override.input_line}: {key} cannot change on resume"
                f"{did_you_mean(key, MAY_CHANGE)}; choose from {', '.join(MAY_CHANGE)}, "
                f"hydra/launcher and hydra.*"
            )
        (of_sweep if of_hydra else of_jobs).append(str(override.input_line))
    sweep = Sweep(directory)
    all_dirs = sweep.all_config_dirs(config_dirs)
    if not sweep.words:
        raise ConfigError(f"{directory} holds a sweep without jobs: type the command of the sweep again")
    if of_jobs and _sweeper(sweep.words) == "optuna":
        raise ConfigError(
            f"{of_jobs[0]}: the trials of a search are compared, so their other keys cannot change; "
            f"type hydra.* only"
        )
    if of_jobs:
        latest = {word.partition("=")[0]: word for word in (*sweep.more, *of_jobs)}
        for job in sweep.jobs[:1]:  # check the overrides before they are saved
            read_config(compose_config([*job, *latest.values()], all_dirs))
        with held(directory):
            sweep.write(more=list(latest.values()))
    words = [word for word in sweep.words if not word.startswith("hydra.sweep.dir=")]
    if any(word.startswith("hydra/launcher=") for word in of_sweep):  # drop the settings of the old launcher
        words = [word for word in words if not word.startswith(("hydra/launcher=", "hydra.launcher."))]
    dir_flags = [word for folder in all_dirs for word in ("--config-dir", folder)]
    main(["-m", *dir_flags, *words, f"hydra.sweep.dir={quoted(directory)}", *of_sweep])


def _jobs(overrides: list[str], config_dirs: Sequence[str]) -> list[list[str]]:
    """Return the overrides of the first jobs of a grid, or of one representative trial of a search.

    Raises:
        ConfigError: the sweep has no jobs, or Optuna is not installed.
    """
    sweeper = _sweeper(overrides)
    if sweeper != "grid":  # the syntax of a user's own sweeper is unknown
        return [_representative_trial(overrides)] if sweeper == "optuna" else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):  # glob(…) reads a group's options from it
            loader = GlobalHydra.instance().config_loader()
            jobs = combinations(loader, overrides, {})
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides, config_dirs) from error
    if not jobs:
        raise ConfigError(f"{' '.join(overrides)}: these overrides make no job")
    return [list(job) for job in jobs[:_CHECKED_JOBS]]


def _for_each_job(overrides: list[str]) -> list[str]:
    """Return the overrides of a sweep over a group with single keys as choices of one value.

    Hydra first composes a config without what is swept, whose default option may not have these keys.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    if not any(each.is_sweep_override() and "." not in each.key_or_group for each in parsed):
        return overrides
    return [
        f"{line.partition('=')[0]}=choice({line.partition('=')[2]})"
        if _is_single_key(override) and line.partition("=")[2]
        else line
        for override, line in ((each, str(each.input_line)) for each in parsed)
    ]


def _is_single_key(override: Override) -> bool:
    key = override.key_or_group
    is_plain = not override.is_sweep_override() and not override.is_delete()
    return is_plain and "." in key and not key.startswith("hydra.")


def _sweeper(overrides: list[str]) -> str:
    chosen = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("hydra/sweeper=")]
    return chosen[-1] if chosen else "grid"


def _representative_trial(overrides: list[str]) -> list[str]:
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna: Optuna is not installed; type pip install 'metarun[optuna]'")
    from metarun.sweeps.search import representative

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        return [
            representative(override) if override.is_sweep_override() else str(override.input_line)
            for override in parsed
        ]
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides) from error


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(node: DictConfig) -> Any:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        return run_job(node)
    directory = Path(hydra_config.runtime.output_dir)
    dir_flags = (f"--config-dir={folder}" for folder in own_config_dirs(hydra_config))
    words = [*dir_flags, *hydra_config.overrides.task]
    try:
        show(launch(plain(node), directory, words, choices=choices_of(hydra_config)), directory)
    except (MetarunError, OSError) as error:
        _failures.append(error)
    return None
