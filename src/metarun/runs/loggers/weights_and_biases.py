"""Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarun.errors import MetarunError
from metarun.runs.loggers.logger import Ended, Logger, RunFacts

_SECONDS = 30.0  # its server has to answer in this time


class WandB(Logger):
    """A run of Weights & Biases; resumed under the same id.

    Args:
        project: where runs are collected.
        entity: a user or team; None: the default of the account.
        mode: `online`; or `offline`: in the run's directory, for wandb sync; None: WANDB_MODE, else online.
        tags: of the run.
    """

    def __init__(
        self,
        *,
        project: str = "metarun",
        entity: str | None = None,
        mode: Literal["online", "offline"] | None = None,
        tags: tuple[str, ...] = (),
    ) -> None:
        self._project, self._entity, self._tags = project, entity, tags
        self._mode: Any = mode or os.environ.get("WANDB_MODE", "online")

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a run, or go on with it."""
        try:
            import wandb
        except ImportError as error:
            raise MetarunError("wandb is not installed: pip install 'metarun[wandb]'") from error
        if self._mode == "online" and not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
            # wandb would ask for it, on the terminal that the training writes to.
            raise MetarunError("wandb has no key: type wandb login, or logger.wandb.mode=offline")
        self._wandb: Any = wandb
        self._run: Any = wandb.init(
            project=self._project,
            entity=self._entity,
            mode=self._mode,
            id=kept.get("id"),
            resume="allow",
            name=run.name,
            dir=str(run.directory),
            tags=self._tags,
            config=dict(run.config),
            settings=wandb.Settings(silent=True, console="off", init_timeout=_SECONDS),
        )
        # Scores are logged under their meta-step, whenever they come.
        self._run.define_metric("meta_step")
        self._run.define_metric("*", step_metric="meta_step")
        return {"id": self._run.id}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:  # noqa: ARG002
        """Log scores."""
        self._run.log({**scores, "meta_step": step})

    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Log histograms."""
        each = {name: self._wandb.Histogram(array) for name, array in values.items()}
        self._run.log({**each, "meta_step": step})

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log pictures."""
        each = {name: self._wandb.Image(array) for name, array in pictures.items()}
        self._run.log({**each, "meta_step": step})

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """End, with the scores of the test in the summary."""
        self._run.summary.update(dict(scores))
        self._run.finish(exit_code=0 if ended == "finished" else 1)
