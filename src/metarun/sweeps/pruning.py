"""Whether a search prunes a job."""

from __future__ import annotations

from typing import Any

from metarun.training.loop import ShouldPrune


def should_prune(hydra: Any) -> ShouldPrune:
    """Return the function that reports a job's validations to its study and returns whether to prune the job.

    For a job that belongs to no search it always returns False.

    Args:
        hydra: Hydra's own config of the job; the name of the job's folder is the number of its trial.
    """
    if "study" not in hydra.sweeper:
        return lambda step, score: False  # noqa: ARG005
    from metarun.sweeps.study import Study

    return Study.open(hydra.sweep.dir, hydra.sweeper.study).should_prune(int(hydra.sweep.subdir))
