"""A meta-step prepared from an ordinary config."""

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
from metarun.learners import IterativeLearner
from metarun.metagradients import MetaGradient, Progress
from metarun.tasks import Tasks, TaskSource

_CONF = Path(__file__).parent / "conf"


@dataclass
class Work:
    """One meta-batch for one learner.

    Attributes:
        source: the task source of the batch.
        meta_batch: the number of tasks of a whole meta-step; a check's batch has fewer.
        settings: the config's settings of metarun's engine; other sides do not use them.
    """

    learner: Any  # with a model, a rule and a loop, where `has_inner_loop`
    metagradient: MetaGradient[Any]
    batch: Tasks
    source: TaskSource
    meta_batch: int
    settings: EngineSettings

    @property
    def has_inner_loop(self) -> bool:
        """Whether the learner takes gradient steps; else it embeds, and a task is solved at once."""
        return isinstance(self.learner, IterativeLearner)

    @cached_property
    def engine(self) -> Engine:
        """The engine that metarun chooses on first access, so never in a peer's process."""
        return choose(self.settings, self.metagradient, self.learner, self.batch)

    def compute(self, executor: Executor, metagradient: MetaGradient[Any] | None = None) -> None:
        """Fill `.grad` as the first meta-step of a training does, with `metagradient` if one is passed."""
        chosen = metagradient or self.metagradient
        for step in meta_steps(chosen, self.learner, self.batch, Progress(), executor):
            step.fill(self.learner)


def make_work(
    overrides: Sequence[str],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    tasks: int | None = None,
) -> Work:
    """Return the work for overrides of the default config; `data=noise` is available here too.

    Args:
        overrides: as in CASES.
        device: where to compute.
        dtype: of parameters and examples.
        tasks: the number of tasks in the batch; None means the config's meta-batch.
    """
    config = read_config(compose_config([*overrides, "device=cpu"], [str(_CONF)]))
    experiment = build(config)
    source = experiment.source
    learner = experiment.learner.to(device, dtype)
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
    """One way to compute a work's meta-gradient, prepared for it.

    Attributes:
        compute: computes it once; this is timed.
        deliver: writes it to the learner's `.grad` if `compute` does not.
    """

    compute: Callable[[], object]
    deliver: Callable[[], object] = lambda: None
