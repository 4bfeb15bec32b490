"""MLflow."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarun.errors import MetarunError
from metarun.runs.loggers.logger import Ended, Logger, RunFacts

_NOT_ALLOWED = re.compile(r"[^\w\-. /]")
_PARAMETERS, _CHARACTERS = 100, 6000  # at most in one call, and in one value

_STATUS = {"finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}


class MLflow(Logger):
    """A run of MLflow; resumed under the same id.

    Args:
        uri: of the tracking server or database; None: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db here.
        experiment: where runs are collected.
    """

    def __init__(self, *, uri: str | None = None, experiment: str = "metarun") -> None:
        self._uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        self._experiment = experiment

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a run, or go on with it."""
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise MetarunError("MLflow is not installed: pip install 'metarun[mlflow]'") from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client: Any = MlflowClient(self._uri)
        if kept:
            self._id = str(kept["id"])
            self._client.update_run(self._id, status="RUNNING")
            return kept
        found = self._client.get_experiment_by_name(self._experiment)
        number = self._client.create_experiment(self._experiment) if found is None else found.experiment_id
        self._id = self._client.create_run(number, run_name=run.name).info.run_id
        from mlflow.entities import Param

        parameters = (
            Param(_NOT_ALLOWED.sub("_", key), str(value)[:_CHARACTERS]) for key, value in run.config.items()
        )
        while part := list(islice(parameters, _PARAMETERS)):
            self._client.log_batch(self._id, params=part)
        return {"id": self._id}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:
        """Log scores."""
        from mlflow.entities import Metric

        named = ((_NOT_ALLOWED.sub("_", name), value) for name, value in scores.items())
        metrics = [Metric(name, value, round(1000 * time), step) for name, value in named]
        self._client.log_batch(self._id, metrics=metrics)

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Keep pictures as artifacts."""
        from PIL import Image

        for name, array in pictures.items():
            self._client.log_image(self._id, Image.fromarray(array), f"{name}-{step}.png")

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """End, with the scores of the test."""
        for name, value in scores.items():
            self._client.log_metric(self._id, _NOT_ALLOWED.sub("_", name), value)
        self._client.set_terminated(self._id, _STATUS[ended])
