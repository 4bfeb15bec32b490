"""Checks of a config's groups against each other: the learner against what it needs, its data, its model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from metarun.errors import ConfigError
from metarun.experiment.config import Config, annotated, needed_by
from metarun.experiment.schema import locate
from metarun.learners import InnerLoop
from metarun.tasks import Metric, TaskSource
from metarun.tasks.types import targets_of, trains_on


def without_needless_training(config: Config) -> Config:
    """Return the config without meta-steps where a learner has nothing to learn, in a sweep beside others."""
    target = locate("algo", config.algo)
    learner_class = target if inspect.isclass(target) else annotated(target)
    if getattr(learner_class, "learns", True):
        return config
    return without_training(config)


def without_training(config: Config) -> Config:
    """Return the config without meta-steps, so that data may be there for tests alone."""
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": 0})})


def needs_of(config: Config, learner_class: Any) -> set[str]:
    """Return the arguments of a learner's constructor that metarun passes.

    Raises:
        ConfigError: it needs a group that is `none`, or nothing uses a group or a key that is there.
    """
    needs = needed_by(learner_class)
    algo = config.algo["_target_"]
    for group, uses in (("model", {"model", "make_model"}), ("inner", {"rule"})):
        target, used = getattr(config, group).get("_target_"), bool(needs & uses)
        if used and target is None:
            raise ConfigError(f"{group}=none: algo._target_={algo} needs one: metarun list {group}")
        if not used and target is not None:
            raise ConfigError(
                f"{group}._target_={target}: algo._target_={algo} uses no {group}, so its keys would have no "
                f"effect: type {group}=none"
            )
    if config.algo.get("freeze") is not None and "model" not in needs:
        raise ConfigError(
            f"algo.freeze={config.algo['freeze']}: algo._target_={algo} has no model whose "
            f"parameters could be fixed: leave it out"
        )
    loop_keys = [key for key in config.inner if key in InnerLoop.model_fields]
    if loop_keys and "loop" not in needs:
        key = loop_keys[0]
        without = "with inner=none" if "rule" not in needs else f"without `loop` in algo._target_={algo}"
        raise ConfigError(f"inner.{key}={config.inner[key]}: {without} this key has no effect: leave it out")
    return needs


def check_source(target: str, source: TaskSource) -> None:
    """Raise ConfigError if a source, an instance of the target, lacks what learner and training use."""
    for name, fits, wanted in _SOURCE:
        value = getattr(source, name, None)
        if not fits(value):
            raise ConfigError(f"data._target_={target}: its {name} is {value!r:.60}, expected {wanted}")


def _is_shape(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(size, int) for size in value)


def _are_metrics(value: object) -> bool:
    if not isinstance(value, Sequence) or not all(isinstance(metric, Metric) for metric in value):
        return False
    names = [metric.name for metric in value]
    return len({*names, "loss", "step"}) == len(names) + 2


# The attributes of a task source that learner, model and training use: name, check, what is expected.
_SOURCE: tuple[tuple[str, Callable[[object], bool], str], ...] = (
    ("input_shape", _is_shape, "the shape of one example, as in (1, 28, 28)"),
    ("output_size", lambda value: value is None or isinstance(value, int), "a whole number, or None"),
    ("loss", callable, "a function of predictions and targets"),
    ("metrics", _are_metrics, "a tuple of metarun.tasks.Metric, none called loss or step, as in ()"),
    ("prepare", callable, "a method that takes a device"),
    ("batch", callable, "a method that returns tasks"),
)


def check_targets(config: Config, source: TaskSource, learner_class: Any) -> None:
    """Raise ConfigError if the data has targets that the learner cannot predict."""
    given, wanted = getattr(source, "targets", None), getattr(learner_class, "targets", None)
    if given and wanted and given != wanted:
        raise ConfigError(
            f"data._target_={config.data['_target_']}: its targets are {given}, and "
            f"algo._target_={config.algo['_target_']} learns {wanted}: type data=omniglot, or another algo"
        )


def check_training(config: Config, source: TaskSource, learner_class: Any) -> None:
    """Raise ConfigError if training tasks are not what the learner is trained on."""
    given, wanted = trains_on(source), getattr(learner_class, "trains_on", "episodes")
    algo = config.algo["_target_"]
    if getattr(source, "for_tests", False) and config.train.steps:
        raise ConfigError(
            f"data._target_={config.data['_target_']}: these are a few real tasks, to be tested on: type "
            f"metarun eval RUN data=…, train.steps=0, or data with classes to train on"
        )
    unlabelled = getattr(source, "unlabelled", 0)
    if unlabelled and not (
        getattr(learner_class, "reads_unlabelled", False) and config.algo.get("refine") == "unlabelled"
    ):
        raise ConfigError(
            f"data.unlabelled={unlabelled} has no effect with algo._target_={algo}: type data.unlabelled=0, "
            f"or algo=soft_kmeans algo.refine=unlabelled"
        )
    ignores_absent = getattr(learner_class, "ignores_absent_classes", True)
    if getattr(source, "may_lack_classes", False) and targets_of(source) == "classes" and not ignores_absent:
        raise ConfigError(
            f"algo._target_={algo} would count the classes that smaller tasks do not have: type algo=protonet"
        )
    if (given, wanted) == ("images", "episodes"):
        raise ConfigError(
            f"data.train_batch={config.data['train_batch']}: algo._target_={algo} is trained on episodes: "
            f"type data.train_batch=null, or algo=baseline"
        )
    if (given, wanted) == ("episodes", "images"):
        raise ConfigError(
            f"data.train_batch=null: algo._target_={algo} is trained on images of all training classes: type "
            f"data.train_batch=64 with data that has this key, as data=omniglot"
        )


def check_head(config: Config, in_training: int | None, in_test: int | None, outputs: int | None) -> None:
    """Raise ConfigError if training tasks need another head than those of a test.

    Args:
        config: of the experiment.
        in_training: outputs of a training task.
        in_test: outputs of a test task.
        outputs: those that the learner wants of its model; None: it has no head.
    """
    if outputs is not None and in_training != in_test:
        raise ConfigError(
            f"data.train_way={in_training} and data.way={in_test}: "
            f"algo._target_={config.algo['_target_']} has a head of fixed size: leave data.train_way out, or "
            f"type algo=protonet or another without a head"
        )


def model_output_size(learner_class: Any, outputs: int | None) -> int | None:
    """Return the number of outputs that a learner wants of its model; None: it has no head."""
    made: Any = learner_class if inspect.isclass(learner_class) else annotated(learner_class)
    wanted: int | None = made.model_output_size(outputs)
    return wanted
