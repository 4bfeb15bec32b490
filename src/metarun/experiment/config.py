"""The typed config: checks every group, then the groups against each other and the machine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Self, get_type_hints

import torch
from pydantic import AfterValidator, BaseModel, ValidationError, model_validator
from torch import nn

from metarun.engine.settings import EngineSettings
from metarun.errors import ConfigError, did_you_mean
from metarun.experiment.outer import OuterSettings
from metarun.experiment.schema import Fields, check, locate, settings_fields, target_fields
from metarun.experiment.starts import Fixed, InitialWeights, settings_of
from metarun.fields import Count, Duration, Seed, SizeOrNone, SomeSteps, Steps
from metarun.learners import Learner
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.metagradients import MetaGradient
from metarun.rules import UpdateRule
from metarun.runs.loggers import Logger
from metarun.system.randomness import Seeding


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda") and not (name.startswith("cuda:") and name[5:].isdigit()):
        raise ValueError(f"should be auto, cpu, cuda or cuda:N{did_you_mean(name, ('auto', 'cpu', 'cuda'))}")
    return name


class TrainSettings(BaseModel, extra="forbid", frozen=True):
    """Attributes are the keys of conf/train, which describes them."""

    steps: Steps
    meta_batch: Count
    log_every: SomeSteps
    validate_every: Steps
    validation_tasks: Count
    checkpoint_every: Steps
    test_tasks: Count
    test_curve: bool = True
    keep: SizeOrNone = 2
    resume: Literal["auto", "never"] = "auto"
    max_time: Duration | None = None  # seconds after parsing
    on_nonfinite: Literal["stop", "skip"] = "stop"
    patience: SomeSteps | None = None

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.patience and not self.validate_every:
            raise ValueError(
                f"train.patience={self.patience} counts validations, and train.validate_every=0 makes none: "
                f"type another train.validate_every"
            )
        return self


class Config(BaseModel, extra="forbid", frozen=True):
    """A whole config; groups that name a class stay plain values until they are built."""

    seed: Seed
    device: Annotated[str, AfterValidator(_device)]
    dtype: Literal["float32", "float64"] = "float32"
    algo: dict[str, Any]
    metagradient: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    inner: dict[str, Any]
    outer: OuterSettings
    train: TrainSettings
    engine: EngineSettings
    seeding: Seeding = "streams"
    suggested: dict[str, float]
    logger: dict[str, dict[str, Any]] = {}


# The keys of a dataset that say which files are meant by NAME:FILES.
PLACES = ("root", "file", "fonts")

# The arguments of each group's class that metarun passes itself, so that nobody types them.
GIVEN: dict[str, tuple[str, ...]] = {
    "algo": (
        *("model", "make_model", "rule", "loop", "seed", "seeding"),
        *("input_shape", "output_size", "training_output_size", "targets"),
    ),
    "metagradient": (),
    "model": ("input_shape", "output_size"),
    "data": ("dtype", "seeding", "home"),
    "inner": ("input_shape", "output_size"),
}


class OtherData(BaseModel, extra="forbid", frozen=True):
    """Keys of every data.

    Attributes:
        test: another dataset, to test on; None: the test tasks are its own.
    """

    test: dict[str, Any] | None = None


# Keys of a group that are not its class's arguments.
SHARED: dict[str, type[BaseModel]] = {
    "inner": InnerLoop,
    "model": InitialWeights,
    "algo": Fixed,
    "data": OtherData,
}

# Groups that a learner may not need.
MAY_BE_NONE = ("model", "inner")

# The base class of each group's class.
KINDS: dict[str, type] = {
    "algo": Learner,
    "metagradient": MetaGradient,
    "model": nn.Module,
    "inner": UpdateRule,
    "outer.optimizer": torch.optim.Optimizer,
    "logger": Logger,
}


def check_target(group: str, node: Mapping[str, Any], target: Callable[..., Any]) -> None:
    """Raise ConfigError if a class, or a function's return annotation, is not of the group's kind.

    The target is not called first: the config may come from a stranger's run, its target may be any function.
    """
    returned = target if inspect.isclass(target) else annotated(target)
    kind = KINDS.get("logger" if group.startswith("logger.") else group)
    if inspect.isclass(returned) and (issubclass(returned, kind) if kind else hasattr(returned, "batch")):
        return
    wanted = (
        f"a subclass of {kind.__module__}.{kind.__qualname__}" if kind else "a class with the method batch"
    )
    hint = "" if inspect.isclass(target) else " (or a function annotated to return one)"
    raise ConfigError(f"{group}._target_={node['_target_']}: expected {wanted}{hint}")


def annotated(function: Callable[..., Any]) -> Any:
    """Return a function's return annotation; None if there is none, or only a type checker can resolve it."""
    try:
        return get_type_hints(function).get("return")
    except Exception:  # unknown names raise many kinds
        return None


def check_made(group: str, made: Any) -> None:
    """Raise ConfigError if the object built for a group is of another kind."""
    kind = KINDS.get(group)
    if kind and not isinstance(made, kind):
        raise ConfigError(f"{group}: expected a {kind.__qualname__}, got {type(made).__name__}")


def read_config(node: Mapping[str, Any], home: str = "") -> Config:
    """Check a composed config, as plain values, and return it typed; nothing is built.

    Args:
        node: the config.
        home: the folder that the run was started in, for the message about a class that cannot be imported.
            Nothing is imported from there: a run may be from a stranger.

    Raises:
        ConfigError: names the key, the given value and what to type instead, in one line.
    """
    root = settings_fields(Config)
    # The groups' contents are checked below, where a message can name the key inside.
    for group in root.types.keys() - {"seed", "device", "dtype", "seeding", "suggested"}:
        root.types[group] = dict[str, Any]
    check("", node, root)
    for group, passed in GIVEN.items():
        if group in MAY_BE_NONE and node[group].get("_target_", "") is None:
            _check_is_none(
                group, node[group], loop_alone=_takes_loop_alone(locate("algo", node["algo"], home))
            )
            continue
        target = locate(group, node[group], home)
        check_target(group, node[group], target)
        fields = target_fields(target, passed)
        if group in SHARED:
            shared = settings_fields(SHARED[group])
            if clashes := sorted(fields.types.keys() & shared.types.keys()):
                raise ConfigError(
                    f"{group}._target_={node[group]['_target_']}: {clashes[0]} is a key of every "
                    f"{group}; give the argument another name"
                )
            fields |= shared
        if group in _PARTS:
            _check_has_parts(group, node[group], fields)
        check(group, node[group], fields)
    for group, settings in (("outer", OuterSettings), ("train", TrainSettings), ("engine", EngineSettings)):
        check(group, node[group], settings_fields(settings))
    optimizer = node["outer"]["optimizer"]
    target = locate("outer.optimizer", optimizer)
    check_target("outer.optimizer", optimizer, target)
    check("outer.optimizer", optimizer, target_fields(target, ("params", "lr")))
    for name, logger in node.get("logger", {}).items():
        target = locate(f"logger.{name}", logger)
        check_target(f"logger.{name}", logger, target)
        check(f"logger.{name}", logger, target_fields(target))
    check_device(node["device"])
    _check_precision(node)
    try:
        return Config.model_validate(dict(node))
    except ValidationError as error:  # usually keys that do not agree: single keys are checked above
        raise ConfigError("; ".join(_message(detail) for detail in error.errors())) from error


def _check_is_none(group: str, node: Mapping[str, Any], *, loop_alone: bool) -> None:
    """Raise ConfigError for a key of a group that is not there; an inner loop may be without a rule."""
    keys = {key: value for key, value in node.items() if key != "_target_"}
    if group == "model" and settings_of(InitialWeights, keys) == InitialWeights():
        keys = {key: value for key, value in keys.items() if key not in InitialWeights.model_fields}
    if group == "inner" and loop_alone:
        check(group, keys, settings_fields(InnerLoop))
        return
    for key, value in keys.items():
        raise ConfigError(
            f"{group}.{key}={value}: with {group}=none this key has no effect: leave it out, or type another "
            f"{group}, and an algo that uses it"
        )


def _takes_loop_alone(learner_class: Any) -> bool:
    needs = needed_by(learner_class)
    return "loop" in needs and "rule" not in needs


def needed_by(learner_class: Any) -> set[str]:
    """Return what metarun passes to a learner: the arguments that it names, or those in its `needs`."""
    named = target_fields(learner_class).types
    return set(getattr(learner_class, "needs", None) or named) & set(GIVEN["algo"])


def _message(error: Mapping[str, Any]) -> str:
    """Return the message of our own validator, or else pydantic's about the key."""
    cause = error.get("ctx", {}).get("error")
    return str(cause) if cause else f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


# Keys of some models and data that an algorithm sets: what they stand for, and what has them.
_PARTS = {
    "model": {
        "context": ("context parameters, which algo=cavia adapts", "model=mlp or model=conv4"),
        "warp": ("warp layers, as algo=tnet has", "model=mlp or model=conv4"),
    },
    "data": {"train_batch": ("classes to be trained on as a whole, as algo=baseline is", "data=omniglot")},
}


def _check_has_parts(group: str, node: Mapping[str, Any], fields: Fields) -> None:
    """Raise ConfigError if an algorithm sets a key that this model, or data, does not have."""
    for key, (part, others) in _PARTS[group].items():
        if key in node and key not in fields.types and not fields.open_ended:
            raise ConfigError(f"{group}._target_={node['_target_']} has no {part}: type {others}")


def _check_precision(node: Mapping[str, Any]) -> None:
    """Raise ConfigError for bfloat16 without a GPU."""
    on_gpu = node["device"].startswith("cuda") or (node["device"] == "auto" and torch.cuda.is_available())
    if node["engine"].get("bf16") and not on_gpu:
        raise ConfigError(
            f"engine.bf16=true is for a GPU, and device={node['device']} is the CPU here: type "
            f"engine.bf16=false"
        )


def check_device(name: str) -> None:
    """Raise ConfigError if this machine has no such device."""
    if not name.startswith("cuda"):
        return
    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if cards == 0:
        raise ConfigError(f"device={name}: there is no CUDA device here; type device=cpu or device=auto")
    if name != "cuda" and int(name[5:]) >= cards:
        raise ConfigError(f"device={name}: the CUDA devices here are cuda:0 … cuda:{cards - 1}")
