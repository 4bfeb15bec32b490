"""The private parts of Hydra and Optuna that metarun uses; no other module touches such parts.

tests/config/test_private.py fails when a new version has changed one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn

if TYPE_CHECKING:
    import optuna

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
"""The `_target_` of Hydra's own launcher, which runs jobs in the sweep's own process."""


def argument_parser() -> argparse.ArgumentParser:
    """Return the parser of Hydra's own flags."""
    parser: argparse.ArgumentParser = get_args_parser()
    return parser


def all_combinations(parsed: Sequence[Override]) -> list[list[str]]:
    """Return the overrides of every job of a sweep, in the order of Hydra's own sweeper."""
    (jobs,) = BasicSweeper.split_arguments(list(parsed), max_batch_size=None)
    return [[str(word) for word in job] for job in jobs]


def forget_registered_launchers(names: Sequence[str]) -> None:
    """Remove the plugins' launchers of these names, so that only the files in hydra/launcher remain."""
    registered = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for name in names:
        registered.pop(f"{name}.yaml", None)


def what_was_raised(job: JobReturn) -> Any:
    """Return the exception of a failed job; its public `return_value` raises it."""
    return job._return_value


def trial_of(study: optuna.Study, frozen: optuna.trial.FrozenTrial) -> optuna.trial.Trial:
    """Return a trial that accepts reports, for one that another process has started."""
    import optuna

    return optuna.trial.Trial(study, frozen._trial_id)
