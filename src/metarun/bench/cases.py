"""What is measured: a meta-step of a published kind of work, made from an ordinary config."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metarun.build import build, build_metagradient
from metarun.choice import choose
from metarun.compiled import Compiled
from metarun.compose import compose_config
from metarun.config import read_config
from metarun.engine import Engine
from metarun.learners import GradientAdaptation
from metarun.metagradients import MetaGradient
from metarun.tasks import Examples, TaskBatch

_CONV4 = ["data=omniglot", "inner.lr=0.1", "train.meta_batch=32"]

CASES: dict[str, list[str]] = {
    "sinusoid-1": ["inner.steps=1"],
    "sinusoid-5": ["inner.steps=5"],
    "sinusoid-5-first-order": ["inner.steps=5", "metagradient=first_order"],
    "sinusoid-5-metasgd": ["algo=metasgd", "inner.lr=0.05", "inner.steps=5"],
    "conv4-5q": [*_CONV4, "data.query=1"],
    "conv4-5q-first-order": [*_CONV4, "data.query=1", "metagradient=first_order"],
    "conv4-5q-metasgd": [*_CONV4, "algo=metasgd", "data.query=1"],
    "sinusoid-5-compiled": ["inner.steps=5", "engine.compile=true"],
    "conv4-5q-compiled": [*_CONV4, "data.query=1", "engine.compile=true"],
    "conv4-75q-compiled": [*_CONV4, "data.query=15", "engine.compile=true"],
    "conv4-75q": [*_CONV4, "data.query=15"],
    "conv4-5q-5steps": [*_CONV4, "data.query=1", "inner.steps=5"],
}
"""Overrides of the default config, by name. The number before q is of query images a task."""


@dataclass
class Work:
    """One meta-batch for one learner, and how metarun chose to compute it."""

    learner: GradientAdaptation
    metagradient: MetaGradient
    batch: TaskBatch
    engine: Engine


def make_work(
    case: str, device: torch.device, dtype: torch.dtype = torch.float32, tasks: int | None = None
) -> Work:
    """Return the work of a case, on random images where it has images: pixels do not change the time.

    Args:
        case: a key of CASES.
        device: where to compute.
        dtype: of parameters and examples.
        tasks: of the meta-batch; the case's own number where None.
    """
    config = read_config(compose_config([*CASES[case], "device=cpu"]))
    parts = build(config)
    learner = parts.learner
    assert isinstance(learner, GradientAdaptation)
    learner.to(device, dtype)
    metagradient = build_metagradient(config, learner)
    count = tasks or config.train.meta_batch
    batch = _images(config.data, count) if "way" in config.data else parts.source.batch("train", 0, count)
    support = Examples(batch.support.x.to(device, dtype), _target(batch.support.y, device, dtype))
    query = Examples(batch.query.x.to(device, dtype), _target(batch.query.y, device, dtype))
    batch = TaskBatch(support, query)
    engine = choose(config.engine, metagradient, learner, batch)
    if engine.compile:
        metagradient = Compiled(metagradient, engine.chunk)
    return Work(learner, metagradient, batch, engine)


def _target(y: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    return y.to(device) if y.dtype == torch.int64 else y.to(device, dtype)


def _images(data: dict[str, int], tasks: int) -> TaskBatch:
    generator = torch.Generator().manual_seed(0)

    def examples(each: int) -> Examples:
        n = data["way"] * each
        x = torch.rand(tasks, n, 1, 28, 28, generator=generator)
        return Examples(x, (torch.arange(n) % data["way"]).expand(tasks, n))

    return TaskBatch(examples(data["shot"]), examples(data["query"]))
