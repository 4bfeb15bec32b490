"""A meta-step ready to be computed, made from an ordinary config."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from metarun.config.composition import compose_config
from metarun.engine.choice import choose
from metarun.engine.settings import Engine, EngineSettings
from metarun.experiment.build import build, build_metagradient
from metarun.experiment.config import read_config
from metarun.learners import GradientAdaptation
from metarun.metagradients import MetaGradient
from metarun.tasks import Examples, TaskBatch, TaskSource

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
    metagradient: MetaGradient
    batch: TaskBatch
    source: TaskSource
    meta_batch: int
    settings: EngineSettings

    @cached_property
    def engine(self) -> Engine:
        """How metarun chose to compute it; chosen when first asked for, so never in a peer's process."""
        return choose(self.settings, self.metagradient, self.learner, self.batch)


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
    parts = build(config)
    learner = parts.learner
    assert isinstance(learner, GradientAdaptation)
    learner.to(device, dtype)
    batch = parts.source.batch("train", 0, tasks or config.train.meta_batch)
    support, query = (
        Examples(part.x.to(device, dtype), part.y.to(device, dtype if part.y.is_floating_point() else None))
        for part in (batch.support, batch.query)
    )
    return Work(
        learner,
        build_metagradient(config, learner),
        TaskBatch(support, query),
        parts.source,
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
