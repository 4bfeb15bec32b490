"""From a checked config to the objects of a training: every `_target_` is instantiated here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hydra.utils import instantiate
from torch import nn

from metarun.config import Config
from metarun.learners import InnerLoop, Learner
from metarun.metagradients import MetaGradient
from metarun.outer import Outer
from metarun.tasks import TaskSource


@dataclass(frozen=True)
class Parts:
    """What a training and an evaluation work with."""

    device: torch.device
    source: TaskSource
    learner: Learner[Any]


def build(config: Config) -> Parts:
    """Build the task source and the learner; nothing is read from disk yet.

    Raises:
        ConfigError: the groups do not fit together.
    """
    device = chosen_device(config.device)
    source: TaskSource = instantiate(config.data, _convert_="all")
    # A model is a plain nn.Module and torch's layers draw their weights from the global generator:
    # it is seeded here, for the model alone, and put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model: nn.Module = instantiate(
            config.model, input_shape=source.input_shape, output_size=source.output_size, _convert_="all"
        )
    loop = {key: value for key, value in config.inner.items() if key in InnerLoop.model_fields}
    rule = {key: value for key, value in config.inner.items() if key not in loop}
    learner: Learner[Any] = instantiate(
        config.algo,
        model=model,
        rule=instantiate(rule, _convert_="all"),
        loop=InnerLoop(**loop),
        loss=source.loss,
        metrics=source.metrics,
        seed=config.seed,
        _convert_="all",
    )
    return Parts(device, source, learner.to(device))


def build_metagradient(config: Config, learner: Learner[Any]) -> MetaGradient:
    """Build the meta-gradient and check that it can train this learner."""
    metagradient: MetaGradient = instantiate(config.metagradient, _convert_="all")
    metagradient.check(learner)
    return metagradient


def build_outer(config: Config, learner: Learner[Any]) -> Outer:
    """Build the outer optimizer over all meta-parameters."""
    make = instantiate(config.outer.optimizer, _partial_=True, _convert_="all")
    return Outer(config.outer, make, learner.parameters(), config.train.steps)


def chosen_device(name: str) -> torch.device:
    """Return the device of a checked `device` setting."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
