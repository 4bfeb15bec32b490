"""Trackio: a local dashboard of Hugging Face."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import Any

from metarun.errors import MetarunError
from metarun.runs.loggers.logger import Ended, Logger, RunFacts


class Trackio(Logger):
    """A run of Trackio, on this machine; resumed under the same name.

    Args:
        project: where runs are collected.
        space: a space of Hugging Face that shows them, USER/NAME; None: on this machine alone.
    """

    def __init__(self, *, project: str = "metarun", space: str | None = None) -> None:
        self._project, self._space = project, space

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin a run, or go on with it."""
        try:
            import trackio
        except ImportError as error:
            raise MetarunError("Trackio is not installed: pip install 'metarun[trackio]'") from error
        self._trackio: Any = trackio
        name = str(kept.get("name", run.name))
        with contextlib.redirect_stdout(sys.stderr):  # the standard output is for the result
            self._run: Any = trackio.init(
                project=self._project,
                name=name,
                space_id=self._space,
                config=run.plain_config,
                resume="allow",
                embed=False,
            )
        return {"name": name}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:  # noqa: ARG002
        """Log scores."""
        self._run.log(dict(scores), step=step)

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:  # noqa: ARG002
        """End, with the scores of the test."""
        if scores:
            self._run.log(dict(scores))
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()
