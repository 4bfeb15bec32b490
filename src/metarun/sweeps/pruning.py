"""Asking the search that a job belongs to whether there is hope for it."""

from __future__ import annotations

from typing import Any

from metarun.training.loop import Hopeless


def judge(hydra: Any) -> Hopeless:
    """Return what a job's validations are told to: the study of its search, if it belongs to one.

    Args:
        hydra: Hydra's own config of the job; the job's folder is the number of its trial.
    """
    if "study" not in hydra.sweeper:
        return lambda step, quality: False  # noqa: ARG005
    from metarun.sweeps.study import Study

    return Study.open(hydra.sweep.dir, hydra.sweeper.study).judge(int(hydra.sweep.subdir))
