"""A trained run reopened for a test: its best learner, under the same or other conditions."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from metarun.config.composition import compose_config
from metarun.config.overrides import set_key, single_values
from metarun.config.parts import with_parts
from metarun.engine.executor import Executor
from metarun.engine.settings import Engine
from metarun.engine.tuning import fit_to_memory
from metarun.engine.ways import find_way
from metarun.errors import ConfigError, MetarunError, did_you_mean, with_keys
from metarun.evaluation.task_scores import TaskScores
from metarun.experiment.build import Experiment, build
from metarun.experiment.config import Config, read_config
from metarun.experiment.fit import model_output_size, without_training
from metarun.experiment.schema import locate
from metarun.experiment.sources import build_source
from metarun.runs.directory import Run
from metarun.runs.resuming import resume_command
from metarun.system.ranks import started
from metarun.tasks.episodes import first_episodes

log = logging.getLogger("metarun")

# Keys that may differ between training and test: any other describes the training, or would be ignored.
OPEN = (
    "data",
    "inner.test_steps",
    "inner.test_batch",
    "algo.transductive",
    "algo.proximal",
    "device",
    "engine.chunk",
    "engine.threads",
)

# Keys that say which classes are tested: with others, some of them may have been trained on.
_DIVIDING = ("split", "seed", "rotations", "shares")


@dataclass(frozen=True)
class Trained:
    """A run's best learner and what is needed to test it.

    Attributes:
        config: config of the run, with the overrides applied.
        step: meta-step of the checkpoint.
    """

    run: Run
    config: Config
    experiment: Experiment
    engine: Engine
    step: int

    def executor(self) -> Executor:
        """Return an executor with the run's engine."""
        return Executor(self.engine, self.experiment.learner)

    def keep(self, what: str, content: Mapping[str, Any], each_task: TaskScores | None = None) -> Path | None:
        """Write a result of this checkpoint into the run's evaluations/; see `keep`."""
        return keep(self.run, what, {"checkpoint_step": self.step, **content}, each_task)


def keep(run: Run, what: str, content: Mapping[str, Any], each_task: TaskScores | None = None) -> Path | None:
    """Write a result into a run's evaluations/, print its path, and return the path.

    The scores of each task are beside it in a file of the same name and the ending .npz.

    If the run's folder cannot be written, log a warning and return None: the result was shown before.
    """
    name = f"evaluations/{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}{what}.json"
    path = run.directory / name
    try:
        if each_task is not None:
            each_task.write(path.with_suffix(".npz"))
        run.write_json(name, content)
    except OSError as error:
        log.warning("not kept: %s cannot be written: %s", path, error.strerror or error)
        return None
    print(f"\nkept: {path}")
    return path


@with_keys()
def reopen(
    directory: Path,
    overrides: Sequence[str],
    config_dirs: Sequence[str] = (),
    also_open: Sequence[str] = (),
    *,
    fit_images: bool = False,
) -> Trained:
    """Build a run's learner with the weights of its best checkpoint (the last, where none was validated).

    Args:
        directory: directory of the run.
        overrides: overrides of the keys in OPEN; of `model` too, if every task starts afresh.
        config_dirs: a user's own folders of groups.
        also_open: keys besides OPEN that may be overridden.
        fit_images: whether to make images of other data fit the network.

    Raises:
        ConfigError: an override does not fit, or its key cannot be changed for a test; or torchrun has
            started several processes, which would all do the same.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    if started() > 1:
        raise ConfigError("a test runs in one process: type the command without torchrun")
    run = Run.open(directory)
    trained = run.config()
    node = override(trained, overrides, config_dirs, also_open)
    config = without_training(read_config(node, run.home))
    own = read_config({**trained, "device": "cpu"}, run.home)
    shape = tuple(build_source(own, run.home).input_shape) if fit_images else None
    if not _is_fresh(trained):
        _check_shapes(own, config, run.home, fit_images=fit_images)
    same = config.data["_target_"] == trained["data"]["_target_"]
    if same and any(config.data.get(key) != trained["data"].get(key) for key in _DIVIDING):
        log.warning("split, seed, shares or rotations differ: test classes may have been trained on")
    last = run.checkpoints.newest()
    state = best_state(run)
    experiment = build(config, home=run.home, shape=shape)
    try:
        experiment.learner.load_state_dict(state["learner"])
    except RuntimeError as error:  # torch's, for a state that does not fit
        raise ConfigError(
            "this run's rule has weights for each parameter of its own network: leave data and model as in "
            "the run; inner=lstm, mlp and metz fit any"
        ) from error
    experiment.source.prepare(experiment.device)
    engine = _engine(config, trained["engine"], last or state, experiment, changed=bool(overrides))
    return Trained(run, config, experiment, engine, state["step"])


def best_state(run: Run) -> dict[str, Any]:
    """Return a run's best checkpoint, or the last, where none was validated.

    Raises:
        MetarunError: there is none.
    """
    last = run.checkpoints.newest()
    was_validated = last is None or last.get("selection", {}).get("best") is not None
    best = run.checkpoints.best() if was_validated else None
    state = best or last
    if state is None:
        raise MetarunError(f"{run.directory} has no checkpoint yet: type {resume_command(run.directory)}")
    return state


def _engine(
    config: Config,
    original: Mapping[str, Any],
    state: Mapping[str, Any],
    experiment: Experiment,
    *,
    changed: bool,
) -> Engine:
    """Return the run's engine, unless another is typed: with it the results equal the run's own, bit for bit.

    Args:
        config: the config of the test.
        original: the engine's settings in the run's own config.
        state: a checkpoint of the run.
        experiment: of the test, prepared.
        changed: whether the test has overrides, with which it may need more memory.
    """
    chosen = {**state.get("evaluation_engine", state["engine"]), "compile": False}
    chosen |= {key: value for key, value in config.engine if value not in ("auto", original.get(key, value))}
    engine = Engine(**chosen)
    tasks = first_episodes(experiment.source, "test", experiment.dtype)
    experiment.learner.check(tasks)
    mode = find_way(config.engine, None, experiment.learner, tasks)
    engine = replace(
        engine,
        chunk=engine.chunk if mode.together else 1,
        plain_attention=engine.plain_attention or mode.plain_attention,
    )
    if changed and mode.together:
        engine = fit_to_memory(engine, experiment.learner, tasks)
    return engine


def override(
    trained: dict[str, Any],
    overrides: Sequence[str],
    config_dirs: Sequence[str] = (),
    also_open: Sequence[str] = (),
) -> dict[str, Any]:
    """Return a run's config with some keys, or the whole data group, replaced.

    Raises:
        ConfigError: a key does not exist, or cannot be changed for a test.
    """
    config = deepcopy(trained)
    # Groups first: single keys are meant for the option that was chosen.
    for word in sorted(single_values(overrides), key=lambda word: "." in word.key_or_group):
        _apply(config, word, config_dirs, also_open)
    config["data"] = with_parts(config["data"])
    return config


def _is_fresh(config: Mapping[str, Any]) -> bool:
    """Return whether tasks start afresh, so that the network may differ."""
    return bool(config["algo"].get("start") == "fresh")


def _apply(
    config: dict[str, Any], word: Override, config_dirs: Sequence[str], also_open: Sequence[str]
) -> None:
    key = word.key_or_group
    groups = ("data", "model") if _is_fresh(config) else ("data",)
    of_learner = sorted(getattr(locate("algo", config["algo"]), "for_tests", ()))
    allowed = (*groups, *OPEN[1:], *(f"algo.{name}" for name in of_learner), *also_open)
    if key.startswith("data.train_") or not (
        key in allowed or key.startswith(tuple(f"{g}." for g in groups))
    ):
        raise ConfigError(
            f"{word.input_line}: {key} cannot be changed for a test{did_you_mean(key, allowed)}; "
            f"choose from {', '.join(allowed)}"
        )
    if key in groups:
        chosen = compose_config([str(word.input_line), f"seed={config['seed']}"], config_dirs)[key]
        # The run's own dataset stays as it was trained on; its default split could be another.
        if key == "model" or chosen.get("_target_") != config[key]["_target_"]:
            config[key] = chosen
        return
    node = set_key(config, word)
    if key == "engine.chunk":
        node["strategy"] = "auto"  # the training's strategy may contradict this chunk


def _check_shapes(trained: Config, now: Config, home: str, *, fit_images: bool) -> None:
    """Raise ConfigError if the data does not fit the network that was trained."""
    if now.data == trained.data:
        return
    source = build_source(now, home)
    try:
        trained_source = build_source(trained, home)
    except ConfigError:
        # Its files are no longer there. If the network does not fit, its weights will not load.
        return
    has_head = model_output_size(locate("algo", now.algo), source.output_size) is not None
    names = (*(() if fit_images else ("input_shape",)), *(("output_size",) if has_head else ()))
    for name in names:
        if getattr(trained_source, name) != getattr(source, name):
            raise ConfigError(
                f"data: the run was trained with {name} {getattr(trained_source, name)}, this data has "
                f"{getattr(source, name)}; type data and data.way as in the run (algo=protonet and others "
                f"without a head take any way)"
            )
