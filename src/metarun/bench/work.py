"""A meta-step ready to be computed, made from an ordinary config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from metarun.config.composition import compose_config
from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine, EngineSettings
from metarun.engine.tuning import choose
from metarun.experiment.build import build, build_metagradient
from metarun.experiment.config import read_config
from metarun.learners import GradientAdaptation, with_inner_loop
from metarun.metagradients import MetaGradient, Progress
from metarun.tasks import Tasks, TaskSource

_CONF = Path(__file__).parent / "conf"


@dataclass
class Work:
    """One meta-batch for one learner.

    Attributes:
        source: where the batch is from.
        meta_batch: tasks of a whole meta-step; a check's batch has fewer.
        settings: what a config asks of metarun's own engine; the other sides have no part in it.
    """

    learner: GradientAdaptation
    metagradient: MetaGradient[Any]
    batch: Tasks
    source: TaskSource
    meta_batch: int
    settings: EngineSettings

    @cached_property
    def engine(self) -> Engine:
        """How metarun chose to compute it; chosen when first asked for, so never in a peer's process."""
        return choose(self.settings, self.metagradient, self.learner, self.batch)

    def compute(self, executor: Executor, metagradient: MetaGradient[Any] | None = None) -> None:
        """Fill `.grad`, as a training does at its first meta-step, perhaps by a compiled meta-gradient."""
        chosen = metagradient or self.metagradient
        for step in meta_steps(chosen, self.learner, self.batch, Progress(), executor):
            step.fill(self.learner)


def make_work(
    overrides: Sequence[str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    tasks: int | None = None,
) -> Work:
    """Return the work that overrides of the default config stand for; `data=noise` is known here too.

    Args:
        overrides: as in CASES.
        device: where to compute.
        dtype: of parameters and examples.
        tasks: of the meta-batch; the config's own number where None.
    """
    config = read_config(compose_config([*overrides, "device=cpu"], [str(_CONF)]))
    experiment = build(config)
    learner, source = with_inner_loop(experiment.learner, "metarun bench"), experiment.source
    learner.to(device, dtype)
    batch = source.batch("train", 0, tasks or config.train.meta_batch).to(device, dtype)
    return Work(
        learner,
        build_metagradient(config, learner),
        replace(batch, info={}),
        source,
        config.train.meta_batch,
        config.engine,
    )


@dataclass(frozen=True)
class Side:
    """One way to compute a work's meta-gradient, ready to start.

    Attributes:
        compute: computes it once; what is timed.
        deliver: puts it into the learner's `.grad`, for a side whose compute does not.
    """

    compute: Callable[[], object]
    deliver: Callable[[], object] = lambda: None
