"""From a checked config to the objects of a training: every `_target_` is instantiated here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import nn

from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.experiment.config import Config, check_device, check_made
from metarun.experiment.outer import Outer
from metarun.experiment.schema import locate, target_fields
from metarun.learners import GradientAdaptation, InnerLoop, Learner
from metarun.metagradients import MetaGradient
from metarun.system.allocator import is_out_of_memory
from metarun.system.randomness import Streams
from metarun.tasks import TaskSource


@dataclass(frozen=True)
class Parts:
    """What a training and an evaluation work with."""

    device: torch.device
    dtype: torch.dtype
    source: TaskSource
    learner: Learner[Any]


def build(config: Config) -> Parts:
    """Build the task source and the learner; nothing is read from disk yet.

    Raises:
        ConfigError: the groups do not fit together.
    """
    device, dtype = chosen_device(config.device), _dtype(config)
    source = build_source(config)
    shapes = {"input_shape": source.input_shape, "output_size": source.output_size}
    # A model is a plain nn.Module and torch's layers draw their weights from the global generator:
    # it is seeded here, for the model alone, and put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(Streams(config.seed, config.seeding).start("model"))
        model: nn.Module = _make("model", config.model, **shapes).to(dtype)
    loop = {key: value for key, value in config.inner.items() if key in InnerLoop.model_fields}
    rule = {key: value for key, value in config.inner.items() if key not in loop}
    learner: Learner[Any] = _make(
        "algo",
        config.algo,
        model=model,
        rule=_make("inner", rule, **_wanted("inner", rule, shapes)),
        loop=InnerLoop(**loop),
        loss=source.loss,
        metrics=source.metrics,
        seed=config.seed,
        **_wanted(
            "algo",
            config.algo,
            {"make_model": _make("model", config.model, _partial_=True, **shapes), "seeding": config.seeding},
        ),
    )
    return Parts(device, dtype, source, learner.to(device, dtype))


def build_source(config: Config) -> TaskSource:
    """Build the task source; nothing is read from disk yet."""
    given = _wanted("data", config.data, {"dtype": _dtype(config), "seeding": config.seeding})
    if "dtype" not in given and config.dtype != "float32":
        raise ConfigError(
            f"dtype={config.dtype}: {config.data['_target_']} always makes float32: "
            f"give it an argument dtype, or type dtype=float32"
        )
    source: TaskSource = _make("data", config.data, **given)
    target = config.data["_target_"]
    for name, fits, wanted in _SOURCE:
        found = getattr(source, name, None)
        if not fits(found):
            raise ConfigError(f"data._target_={target}: its {name} is {found!r:.60}, expected {wanted}")
    return source


def _is_shape(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(each, int) for each in value)


# What a learner and a model are built from, and what a training calls.
_SOURCE: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("input_shape", _is_shape, "the shape of one example, as in (1, 28, 28)"),
    ("output_size", lambda value: isinstance(value, int), "a whole number"),
    ("loss", callable, "a function of predictions and targets"),
    ("metrics", lambda value: isinstance(value, Mapping), "a dict of functions, as in {}"),
    ("prepare", callable, "a method that takes a device"),
    ("batch", callable, "a method that returns tasks"),
)


def _wanted(group: str, node: Mapping[str, Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a class has arguments for, of what is there for those that do."""
    fields = target_fields(locate(group, node)).types
    return {name: value for name, value in offered.items() if name in fields}


def _dtype(config: Config) -> torch.dtype:
    return torch.float64 if config.dtype == "float64" else torch.float32


def check_fit(config: Config) -> None:
    """Raise ConfigError where the groups do not fit together; nothing is read, kept, or put on a GPU."""
    learner = build(config.model_copy(update={"device": "cpu"})).learner
    build_metagradient(config, learner)
    build_outer(config, learner)


def build_metagradient(config: Config, learner: Learner[Any]) -> MetaGradient:
    """Build the meta-gradient and check that it can train this learner."""
    metagradient: MetaGradient = _make("metagradient", config.metagradient)
    metagradient.check(learner)
    if isinstance(learner, GradientAdaptation) and learner.rule.carries and not metagradient.carries:
        raise ConfigError(
            "inner.second_moments=kept is for metagradient=reptile, which carries them from task to task: "
            "type inner.second_moments=fresh"
        )
    if config.engine.compile and (problem := _not_to_compile(metagradient, learner)):
        raise ConfigError(f"engine.compile=true: {problem}; type engine.compile=false")
    if config.engine.rematerialise and not metagradient.rematerialises:
        raise ConfigError(
            "engine.rematerialise=true is for metagradient=exact with metagradient.objective=final: type "
            "engine.rematerialise=false"
        )
    return metagradient


def _not_to_compile(metagradient: MetaGradient, learner: Learner[Any]) -> str:
    if isinstance(learner, GradientAdaptation) and learner.fresh is not None:
        return "fresh parameters are drawn one task after another"
    if not metagradient.constant:
        horizon = (
            ", or moves more than once in it (metagradient.update=window)" if metagradient.moves_often else ""
        )
        return f"this meta-gradient is not the same computation at every step{horizon}"
    return ""


def build_outer(config: Config, learner: Learner[Any]) -> Outer:
    """Build the outer optimizer over all meta-parameters."""
    make = _make("outer.optimizer", config.outer.optimizer, _partial_=True)
    trained = [p for p in learner.parameters() if p.requires_grad]
    carried: list[nn.Parameter] = []
    if isinstance(learner, GradientAdaptation) and learner.rule.carries:
        carried = [p for p in learner.rule.parameters() if not p.requires_grad]
    if not trained and config.algo.get("start") == "fresh":
        raise ConfigError(
            f"there is nothing to learn: algo.start=fresh learns the update rule alone, and "
            f"{config.inner['_target_']} has no weights; type inner=lstm"
        )
    if not trained:
        raise ConfigError(
            f"there is nothing to learn: no parameter of {config.model['_target_']} requires a gradient, and "
            f"{config.inner['_target_']} has no weights; free some parameters, or type inner=metasgd"
        )
    try:
        outer = Outer(config.outer, make, trained, config.train.steps, carried)
        _check_optimizer(config, outer.optimizer)
        return outer
    except MetarunError:
        raise
    except (TypeError, ValueError) as error:  # torch's optimizers check their own arguments
        raise ConfigError(f"outer.optimizer: {error}") from error


def _check_optimizer(config: Config, optimizer: torch.optim.Optimizer) -> None:
    """Raise ConfigError for an optimizer that wants to compute losses itself, or other gradients."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is closure.empty
    if needs_closure or isinstance(optimizer, torch.optim.SparseAdam):
        wants = "to compute the loss again in each step" if needs_closure else "sparse gradients"
        raise ConfigError(
            f"outer.optimizer._target_={config.outer.optimizer['_target_']} wants {wants}: type outer=adam"
        )


def _make(group: str, node: Mapping[str, Any], **given: Any) -> Any:
    """Call what a node's `_target_` names; only that: what is nested in its arguments stays plain values.

    Raises:
        MetarunError: its own complaint, as it is.
        ConfigError: it fails in another way, or makes something else than the group is for.
    """
    try:
        made = instantiate(dict(node), **given, _convert_="all", _recursive_=False)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, MetarunError):
            raise cause from None
        if is_out_of_memory(cause):
            raise ConfigError(f"{group}: it does not fit into memory: type smaller sizes") from error
        raise ConfigError(f"{group}._target_={node['_target_']} fails: {in_one_line(cause)}") from error
    if not given.get("_partial_"):
        check_made(group, made)
    return made


def chosen_device(name: str) -> torch.device:
    """Return the device of a checked `device` setting."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun: a card for each process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(name)
    return torch.device(name)
