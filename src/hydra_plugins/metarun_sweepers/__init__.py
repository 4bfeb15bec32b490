"""metarun's sweepers, where Hydra looks for plugins; what they do is in metarun.sweeps.

Hydra imports this at every start of any application, so it imports nothing itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _MetarunSweeper(Sweeper):
    """What both have in common: Hydra hands over what a job is launched with."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher.

        Raises:
            ConfigError: the package that the launcher comes from is not installed.
        """
        from metarun.sweeps.launching import Launching

        self.launching = Launching(hydra_context, task_function, config)


class GridSweeper(_MetarunSweeper):
    """Every combination of the values given (`hydra/sweeper=grid`); unfinished jobs only, where some are."""

    def __init__(self, params: Mapping[str, Any] | None = None, max_batch_size: int | None = None) -> None:
        self._params, self._max_batch_size = dict(params or {}), max_batch_size
        if max_batch_size is not None and not (isinstance(max_batch_size, int) and max_batch_size > 0):
            from metarun.errors import ConfigError

            raise ConfigError(
                f"hydra.sweeper.max_batch_size={max_batch_size}: should be a whole number above 0, or null"
            )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that are not finished, and print the table."""
        from metarun.sweeps.grid import sweep

        sweep(self.launching, arguments, self._params, self._max_batch_size)


class OptunaSweeper(_MetarunSweeper):
    """A search by Optuna (`hydra/sweeper=optuna`); one that is there is continued."""

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
        """Run trials until there are as many as asked for, and print the table."""
        from metarun.sweeps.search import search

        search(
            self.launching, arguments, self._params, self._study, trials=self._n_trials, at_once=self._n_jobs
        )
