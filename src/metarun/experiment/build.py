"""Builds the objects of a training from a checked config: every `_target_` is instantiated here."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError, MetarunError, with_keys
from metarun.experiment.config import Config, check_device
from metarun.experiment.fit import (
    check_head,
    check_targets,
    check_training,
    model_output_size,
    needs_of,
    without_needless_training,
)
from metarun.experiment.outer import Outer
from metarun.experiment.schema import locate
from metarun.experiment.sources import build_source, dtype_of, make, wanted
from metarun.experiment.starts import (
    Fixed,
    InitialWeights,
    arguments_of,
    fitting,
    freeze,
    load,
    model_to_start,
    read_weights,
    settings_of,
)
from metarun.learners import InnerLoop, Learner
from metarun.metagradients import MetaGradient
from metarun.system.randomness import Streams
from metarun.tasks import TaskSource
from metarun.tasks.images.adapted import Adapted
from metarun.tasks.types import Targets, output_size, targets_of


@dataclass(frozen=True)
class Experiment:
    """The objects that training and evaluation share."""

    device: torch.device
    dtype: torch.dtype
    source: TaskSource
    learner: Learner[Any]


@dataclass(frozen=True)
class Facts:
    """What a learner must know of its tasks, see `TaskSource`."""

    input_shape: tuple[int, ...]
    output_size: int | None
    training_output_size: int | None
    targets: Targets

    @classmethod
    def of(cls, source: TaskSource) -> Facts:
        """Return those of a source."""
        in_training = output_size(source, "train")
        return cls(tuple(source.input_shape), source.output_size, in_training, targets_of(source))


@with_keys()
def build(
    config: Config,
    *,
    start: bool = False,
    home: str = "",
    announce: bool = True,
    shape: tuple[int, ...] | None = None,
) -> Experiment:
    """Build the task source and the learner; of the data nothing is read from disk yet.

    Args:
        config: of the experiment.
        start: whether to load the weights that model.init_from names, as a training does once.
        home: the folder that relative paths in the config start from.
        announce: whether to log which weights are loaded.
        shape: what images are made to fit; None: they stay as they are.

    Raises:
        ConfigError: the groups do not fit together, or one has keys that nothing uses.
    """
    source = build_source(config, home)
    if shape is not None and tuple(source.input_shape) != shape:
        source = Adapted(source, shape)
    learner_class = locate("algo", config.algo)
    check_targets(config, source, learner_class)
    check_training(config, source, learner_class)
    learner = build_learner(config, Facts.of(source), start=start, home=home, announce=announce)
    return Experiment(chosen_device(config.device), dtype_of(config), source, learner)


@with_keys()
def build_learner(
    config: Config, facts: Facts, *, start: bool = False, home: str = "", announce: bool = True
) -> Learner[Any]:
    """Build the learner alone, on its device.

    Args:
        config: of the experiment.
        facts: what it must know of its tasks.
        start: see `build`.
        home: see `build`.
        announce: see `build`.

    Raises:
        ConfigError: the groups do not fit together, or one has keys that nothing uses.
    """
    device, dtype = chosen_device(config.device), dtype_of(config)
    learner_class = locate("algo", config.algo)
    needs = needs_of(config, learner_class)
    shapes = {"input_shape": facts.input_shape, "output_size": facts.output_size}
    arguments: dict[str, Any] = {"seed": config.seed, "seeding": config.seeding, **shapes}
    arguments |= {"training_output_size": facts.training_output_size, "targets": facts.targets}
    if needs & {"model", "make_model"}:
        outputs = model_output_size(learner_class, facts.output_size)
        check_head(config, facts.training_output_size, facts.output_size, outputs)
        model = arguments_of(InitialWeights, config.model)
        make_model = make("model", model, _partial_=True, **{**shapes, "output_size": outputs})
        arguments["make_model"] = make_model
    initial: InitialWeights = settings_of(InitialWeights, config.model)
    if initial.init_from is None and not initial.strict:
        raise ConfigError(
            "model.strict=false: without model.init_from this key has no effect: leave it out, or type "
            "model.init_from=RUN"
        )
    weights = read_weights(initial.init_from, home) if start and initial.init_from is not None else {}
    if "model" in needs:
        arguments["model"] = _build_model(config, outputs, shapes, dtype, weights)
    if "rule" in needs:
        rule = {key: value for key, value in config.inner.items() if key not in InnerLoop.model_fields}
        arguments["rule"] = make("inner", rule, **wanted("inner", rule, shapes))
    if "loop" in needs:
        loop = {key: value for key, value in config.inner.items() if key in InnerLoop.model_fields}
        arguments["loop"] = InnerLoop(**loop)
    algo = arguments_of(Fixed, config.algo)
    learner: Learner[Any] = make(
        "algo", algo, **{name: value for name, value in arguments.items() if name in needs}
    )
    learner = learner.to(device, dtype)
    if initial.init_from is not None:
        started = model_to_start(learner, initial.init_from)
        if weights:  # again: the learner may have put norms with running statistics into the model
            load(started, weights, initial, announce=announce)
    return learner


def _build_model(
    config: Config,
    outputs: int | None,
    shapes: Mapping[str, Any],
    dtype: torch.dtype,
    weights: Mapping[str, Tensor],
) -> nn.Module:
    """Return the model with `outputs` outputs, or its body alone if that is None.

    Weights are loaded and fixed before the learner is built, since it may derive others from them.
    """
    with Streams(config.seed, config.seeding).drawing("model"):
        arguments = arguments_of(InitialWeights, config.model)
        model: nn.Module = make("model", arguments, **{**shapes, "output_size": outputs}).to(dtype)
    if outputs is None and not isinstance(getattr(model, "features", None), int):
        raise ConfigError(
            f"model._target_={config.model['_target_']}: algo._target_={config.algo['_target_']} needs an "
            f"embedding, and without output_size this model has no `features`, the embedding's size"
        )
    if weights:
        model.load_state_dict(fitting(model, weights), strict=False)
    fixed: Fixed = settings_of(Fixed, config.algo)
    if fixed.freeze is not None:
        freeze(model, fixed.freeze)
    return model


@with_keys()
def check_fit(config: Config) -> None:
    """Raise ConfigError if the groups do not fit together; writes no files, and uses no GPU."""
    config = without_needless_training(config)
    learner = build(config.model_copy(update={"device": "cpu"}), start=True, announce=False).learner
    build_metagradient(config, learner)
    build_outer(config, learner)


@with_keys()
def build_metagradient(config: Config, learner: Learner[Any]) -> MetaGradient[Any]:
    """Build the meta-gradient and check that it can train this learner."""
    metagradient: MetaGradient[Any] = make("metagradient", config.metagradient)
    if not isinstance(learner, metagradient.learner):
        raise ConfigError(
            f"metagradient._target_={config.metagradient['_target_']} with these settings trains "
            f"learners of the kind {metagradient.learner.__name__}, not {type(learner).__name__}: type "
            f"metagradient=exact"
        )
    metagradient.check(learner)
    if not learner.thread_safe and config.engine.workers not in ("auto", 1):
        raise ConfigError(
            f"engine.workers={config.engine.workers}: algo._target_={config.algo['_target_']} does not say "
            f"that it is thread_safe: type engine.workers=1"
        )
    if learner.keeps_state and not metagradient.assigns:
        raise ConfigError(
            "inner.second_moments=kept is for metagradient=reptile, which keeps them from task to task: "
            "type inner.second_moments=fresh, or write your own rule without keeps_state"
        )
    if config.engine.compile and (problem := _not_to_compile(metagradient, learner)):
        raise ConfigError(f"engine.compile=true: {problem}; type engine.compile=false")
    if config.engine.rematerialise and not metagradient.rematerialises:
        raise ConfigError(
            "engine.rematerialise=true is for metagradient=exact with metagradient.objective=final: type "
            "engine.rematerialise=false"
        )
    if config.engine.rematerialise and not learner.can_rematerialise:
        raise ConfigError(
            f"engine.rematerialise=true: algo._target_={config.algo['_target_']} has no inner steps to "
            f"recompute: type engine.rematerialise=false"
        )
    return metagradient


def _not_to_compile(metagradient: MetaGradient[Any], learner: Learner[Any]) -> str:
    if reason := learner.not_to_compile:
        return reason
    if not metagradient.constant:
        repeated = ", or updates more than once per step (metagradient.update=window)"
        return (
            f"this meta-gradient is not the same computation at every step"
            f"{repeated if metagradient.steps_per_window else ''}"
        )
    return ""


@with_keys()
def build_outer(config: Config, learner: Learner[Any]) -> Outer:
    """Build the outer optimizer over all meta-parameters."""
    optimizer = make("outer.optimizer", config.outer.optimizer, _partial_=True)
    trained = [p for p in learner.parameters() if p.requires_grad]
    if not trained and config.train.steps and config.algo.get("start") == "fresh":
        raise ConfigError(
            f"there is nothing to learn: algo.start=fresh learns the update rule alone, and "
            f"{config.inner['_target_']} has no weights; type inner=lstm, or train.steps=0 for a test alone"
        )
    if not trained and config.train.steps:
        raise ConfigError(
            f"there is nothing to learn: no parameter of {config.model.get('_target_')} requires a gradient, "
            f"and {config.inner.get('_target_')} has no weights; unfreeze some, type inner=metasgd, or "
            f"train.steps=0 for a test alone"
        )
    try:
        outer = Outer(config.outer, optimizer, trained, config.train.steps)
        _check_optimizer(config, outer.optimizer)
        return outer
    except MetarunError:
        raise
    except (TypeError, ValueError) as error:  # torch's optimizers check their own arguments
        raise ConfigError(f"outer.optimizer: {error}") from error


def _check_optimizer(config: Config, optimizer: torch.optim.Optimizer) -> None:
    """Raise ConfigError for an optimizer that needs a closure or sparse gradients."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    needs_closure = closure is not None and closure.default is closure.empty
    if needs_closure or isinstance(optimizer, torch.optim.SparseAdam):
        needs = "to recompute the loss in each step" if needs_closure else "sparse gradients"
        raise ConfigError(
            f"outer.optimizer._target_={config.outer.optimizer['_target_']} needs {needs}: type outer=adam"
        )


def chosen_device(name: str) -> torch.device:
    """Return the device of a checked `device` setting."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:  # torchrun: one GPU per process
        name = f"cuda:{os.environ['LOCAL_RANK']}"
        check_device(name)
    return torch.device(name)
