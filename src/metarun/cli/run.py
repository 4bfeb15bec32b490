"""`metarun key=value …`: Hydra composes the config, one run or a sweep of them is trained."""

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
from hydra.types import RunMode
from omegaconf import DictConfig

from metarun.cli.arguments import parse
from metarun.config.composition import (
    COMPOSITION_ERRORS,
    SEARCH_PATH,
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
    together(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    prepare_hydra()
    config_dirs, arguments = _own_config_dirs(arguments)
    parser = argument_parser()
    parser.prog = "metarun"
    flags = parse(parser, arguments)
    overrides: list[str] = flags.overrides
    shows_only = flags.cfg or flags.info or flags.hydra_help or flags.shell_completion
    own_root = flags.config_name or flags.config_path or flags.experimental_rerun
    check_config_dirs(config_dirs)
    if flags.multirun:
        config_dirs = _with_those_before(config_dirs, overrides)
    if not (shows_only or own_root):
        # Hydra makes directories before it calls us, and a wrong config should not leave any.
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
                    "train.validate_every=0: a search goes by validations; type train.validate_every=100"
                )
    words = [word for word in arguments if word not in overrides]
    try:
        _compose_and_train(words, overrides, config_dirs)
    except (MetarunError, OSError):
        raise
    except Exception as error:
        if not (shows_only or own_root or flags.resolve):
            raise
        raise ConfigError(f"{' '.join(words)}: {in_one_line(error)}; see metarun --hydra-help") from error


def _own_config_dirs(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return a user's own folders of groups, however they were typed, and the other arguments."""
    parser = argparse.ArgumentParser("metarun", add_help=False, allow_abbrev=False)
    short = [f"--config-{'dir'[:length]}" for length in (3, 2, 1)]  # as Hydra's own parser takes them
    parser.add_argument(*short, "-cd", dest="config_dir", action="append", default=[])
    given, others = parser.parse_known_args(arguments)
    searched = [word for word in others if word.lstrip("+").startswith(f"{SEARCH_PATH}=")]
    for each in single_values(searched):
        found = each.value()
        if not isinstance(found, list) or not all(isinstance(place, str) for place in found):
            raise ConfigError(
                f"{each.input_line}: should be a list of folders, as in {SEARCH_PATH}=[file://myconf]"
            )
        given.config_dir += [str(place).removeprefix("file://") for place in found]
    return given.config_dir, [word for word in others if word not in searched]


def _with_those_before(config_dirs: list[str], overrides: Sequence[str]) -> list[str]:
    """Return a user's own folders, with those of the sweep that goes on, if one does."""
    typed = [word for word in overrides if word.startswith("hydra.sweep.dir=")]
    place = single_values(typed)[-1].value() if typed else None
    return Sweep(Path(place)).all_config_dirs(config_dirs) if isinstance(place, str) else config_dirs


def _compose_and_train(flags: list[str], overrides: list[str], config_dirs: list[str]) -> None:
    # Hydra reads sys.argv, and ends the process itself unless this variable lets its errors through.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Its own parser wants all overrides in one place.
    own = [search_path(config_dirs)] if config_dirs else []
    sys.argv = ["metarun", *flags, *overrides, *own]
    try:
        _hydra_main()
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides, config_dirs) from error
    if _failures:
        raise _failures.pop()


def train_sweep(directory: Path, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> None:
    """Continue a sweep: run what is missing, half done or failed.

    Args:
        directory: of the sweep.
        overrides: of keys that may change, for all jobs; of Hydra's own keys, for the sweep.
        config_dirs: a user's own folders of groups, besides those that it began with.

    Raises:
        ConfigError: a folder that it began with is gone, or an override is of a key that a run keeps.
        MetarunError: jobs have failed.
    """
    of_sweep: list[str] = []
    of_jobs: list[str] = []
    for each in single_values(overrides):
        if each.key_or_group.startswith("hydra.sweep."):
            raise ConfigError(f"{each.input_line}: a sweep goes on where it is")
        of_hydra = each.key_or_group.split(".")[0].split("/")[0] == "hydra"
        if not of_hydra and not may_change(each.key_or_group):
            raise ConfigError(
                f"{each.input_line}: the jobs keep {each.key_or_group}"
                f"{did_you_mean(each.key_or_group, MAY_CHANGE)}; choose from {', '.join(MAY_CHANGE)}, "
                f"hydra/launcher and hydra.*"
            )
        (of_sweep if of_hydra else of_jobs).append(str(each.input_line))
    sweep = Sweep(directory)
    all_dirs = sweep.all_config_dirs(config_dirs)
    if not sweep.words:
        raise ConfigError(f"{directory} holds a sweep that was never begun: type its command again")
    if of_jobs and _sweeper(sweep.words) == "optuna":
        raise ConfigError(
            f"{of_jobs[0]}: the trials of a search are compared, so all have the same; type hydra.* only"
        )
    if of_jobs:
        latest = {word.partition("=")[0]: word for word in (*sweep.more, *of_jobs)}
        for job in sweep.jobs[:1]:  # before it is kept
            read_config(compose_config([*job, *latest.values()], all_dirs))
        with held(directory):
            sweep.write(more=list(latest.values()))
    words = [word for word in sweep.words if not word.startswith("hydra.sweep.dir=")]
    if any(word.startswith("hydra/launcher=") for word in of_sweep):  # what was typed for the one before
        words = [word for word in words if not word.startswith(("hydra/launcher=", "hydra.launcher."))]
    own = [word for folder in all_dirs for word in ("--config-dir", folder)]
    main(["-m", *own, *words, f"hydra.sweep.dir={quoted(directory)}", *of_sweep])


def _jobs(overrides: list[str], config_dirs: Sequence[str]) -> list[list[str]]:
    """Return the overrides of the first jobs of a sweep, or of one that stands for all of a search.

    Raises:
        ConfigError: there are none, or the package that searches is not installed.
    """
    sweeper = _sweeper(overrides)
    if sweeper != "grid":  # a user's own has words of its own
        return [_of_a_search(overrides)] if sweeper == "optuna" else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):  # glob(…) asks it for a group's options
            loader = GlobalHydra.instance().config_loader()
            jobs = combinations(loader, overrides, {})
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides, config_dirs) from error
    if not jobs:
        raise ConfigError(f"{' '.join(overrides)}: these choices make no job")
    return [list(job) for job in jobs[:_CHECKED_JOBS]]


def _sweeper(overrides: list[str]) -> str:
    chosen = [word.partition("=")[2] for word in overrides if word.lstrip("+").startswith("hydra/sweeper=")]
    return chosen[-1] if chosen else "grid"


def _of_a_search(overrides: list[str]) -> list[str]:
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("hydra/sweeper=optuna: Optuna is not installed; type pip install 'metarun[optuna]'")
    from metarun.sweeps.search import representative

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        return [representative(each) if each.is_sweep_override() else str(each.input_line) for each in parsed]
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides) from error


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(node: DictConfig) -> Any:
    hydra_config = HydraConfig.get()
    if hydra_config.mode == RunMode.MULTIRUN:
        return run_job(node)
    directory = Path(hydra_config.runtime.output_dir)
    own = (f"--config-dir={folder}" for folder in own_config_dirs(hydra_config))
    words = [*own, *hydra_config.overrides.task]
    try:
        show(launch(plain(node), directory, words), directory)
    except (MetarunError, OSError) as error:
        _failures.append(error)
    return None
