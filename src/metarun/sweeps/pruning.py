"""Ending a job of a search that has no hope."""

from __future__ import annotations

from typing import Any

from metarun.errors import MetarunError
from metarun.train import AfterValidation


class PrunedError(MetarunError):
    """The search has given the job up; it is no failure."""


def reporter(hydra: Any) -> AfterValidation:
    """Return what a job's validations are told to: the study of its search, if it belongs to one.

    Args:
        hydra: Hydra's own config of the job.
    """
    if "study" not in hydra.sweeper:
        return lambda step, quality: None  # noqa: ARG005
    from metarun.sweeps.study import Study

    return Study.open(hydra.sweep.dir, hydra.sweeper.study).reporter(int(hydra.sweep.subdir))
