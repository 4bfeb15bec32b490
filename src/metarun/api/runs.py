"""Runs in Python: one of them, and all below a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metarun.errors import ConfigError
from metarun.evaluation.prediction.estimator import Estimator, load
from metarun.runs import directory
from metarun.runs.finding import run_directories


class Run:
    """A run's directory, as it is now.

    Args:
        path: of the directory.

    Raises:
        MetarunError: it holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self._run = directory.Run.open(Path(path))
        self.path = self._run.directory

    @property
    def config(self) -> dict[str, Any]:
        """The composed config, as plain values."""
        return self._run.config()

    @property
    def manifest(self) -> dict[str, Any]:
        """Command, versions, machine, and what the data turned out to be."""
        return self._run.manifest()

    @property
    def results(self) -> dict[str, Any] | None:
        """The results of the test, as in results.json; None: it is not finished."""
        return self._run.results()

    @property
    def metrics(self) -> Any:
        """What was logged: a pandas DataFrame, or a list of dictionaries where pandas is not installed."""
        try:
            lines = (self.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:  # nothing was logged yet
            lines = []
        rows = [json.loads(line) for line in lines if line.endswith("}")]  # the last one may be being written
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ImportError:
            return rows
        return pd.DataFrame(rows)

    def load(self, overrides: Sequence[str] = ()) -> Estimator:
        """Return its best learner, to be fitted to a few examples; see `metarun.load`."""
        return load(self.path, overrides)

    def __eq__(self, other: object) -> bool:
        """Return whether both are of one directory."""
        return isinstance(other, Run) and self.path.resolve() == other.path.resolve()

    def __hash__(self) -> int:
        """Return a hash of the directory."""
        return hash(self.path.resolve())

    def __repr__(self) -> str:
        """Return the call that makes it."""
        return f"metarun.Run({str(self.path)!r})"


def runs(folder: str | Path = "outputs") -> list[Run]:
    """Return all runs below a folder, in the order of their paths.

    Raises:
        ConfigError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise ConfigError(f"{folder}: there is no such folder")
    return [Run(path) for path in run_directories(Path(folder))]
