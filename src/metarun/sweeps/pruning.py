"""Whether the search that a job belongs to gives it up."""

from __future__ import annotations

from typing import Any

from metarun.training.loop import ShouldPrune


def should_prune(hydra: Any) -> ShouldPrune:
    """Return what a job's validations are told to: the study of its search, if it belongs to one.

    Args:
        hydra: Hydra's own config of the job; the job's folder is the number of its trial.
    """
    if "study" not in hydra.sweeper:
        return lambda step, score: False  # noqa: ARG005
    from metarun.sweeps.study import Study

    return Study.open(hydra.sweep.dir, hydra.sweeper.study).should_prune(int(hydra.sweep.subdir))
