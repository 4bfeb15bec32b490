"""metarun's sweepers, in the package in which Hydra looks for plugins; metarun.sweeps does the work.

Hydra imports this module at every start of any application, so metarun is only imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _MetarunSweeper(Sweeper):
    """The common part of both sweepers: setting up the launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher.

        Raises:
            ConfigError: the launcher's package is not installed.
        """
        from metarun.sweeps.launching import Launching

        self.launching = Launching(hydra_context, task_function, config)


class GridSweeper(_MetarunSweeper):
    """Runs every combination of the values (`hydra/sweeper=grid`), except those that are finished."""

    def __init__(self, params: Mapping[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        self._params, self._max_batch_size = dict(params or {}), max_batch_size
        if max_batch_size is not None and not (isinstance(max_batch_size, int) and max_batch_size > 0):
            from metarun.errors import ConfigError

            raise ConfigError(
                f"hydra.sweeper.max_batch_size={max_batch_size}: should be a whole number above 0, or null"
            )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the unfinished jobs and print the table."""
        from metarun.sweeps.grid import sweep

        sweep(self.launching, arguments, self._params, self._max_batch_size)


class OptunaSweeper(_MetarunSweeper):
    """Searches with Optuna (`hydra/sweeper=optuna`), or continues an existing search."""

    def __init__(
        self, n_trials: int, n_jobs: int, study: DictConfig, params: Mapping[str, Any] | None
    ) -> None:
        self._n_trials, self._n_jobs, self._study = n_trials, n_jobs, study
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if not isinstance(value, int) or value < 1:
                from metarun.errors import ConfigError

                raise ConfigError(f"hydra.sweeper.{name}={value}: should be a whole number above 0")
        self._params = [f"{key}={value}" for key, value in (params or {}).items()]

    def sweep(self, arguments: list[str]) -> Any:
        """Run trials until there are `n_trials`, and print the table."""
        from metarun.sweeps.search import search

        search(
            self.launching, arguments, self._params, self._study, trials=self._n_trials, at_once=self._n_jobs
        )
