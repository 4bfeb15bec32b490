"""`metarun eval RUN [overrides]`: test a run's best checkpoint again, under other conditions."""

from __future__ import annotations

import argparse
import logging
import secrets
from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from metarun.build import build, build_source
from metarun.commands.arguments import parse
from metarun.compose import compose_config
from metarun.config import Config, read_config
from metarun.engine import Engine
from metarun.errors import ConfigError, MetarunError
from metarun.evaluate import evaluate
from metarun.overrides import set_key, single_values
from metarun.randomness import fix
from metarun.reports.table import curve_table
from metarun.runs.directory import Run, resume_command
from metarun.runs.progress import chunks_bar
from metarun.suggest import did_you_mean

log = logging.getLogger("metarun")

# What a test depends on besides the checkpoint; anything else would be typed and ignored.
_OPEN = (
    "data",
    "inner.test_steps",
    "inner.test_batch",
    "algo.transductive",
    "train.test_tasks",
    "device",
    "engine.chunk",
    "engine.threads",
    "engine.workers",
)


def main(arguments: list[str]) -> None:
    """Test again, print the table, and keep it in the run's evaluations/.

    Raises:
        ConfigError: an override does not fit, or does not bear on a test.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    parser = argparse.ArgumentParser(
        "metarun eval",
        description="Test a run's best checkpoint again.",
        epilog=f"overrides of: {', '.join(_OPEN)}",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in data.shot=5 inner.test_steps=10")
    parser.add_argument("--config-dir", help="a folder of your own groups and options")
    given = parse(parser, arguments[1:])
    run = Run.open(given.run)
    trained = run.config()
    node = override(trained, given.overrides, given.config_dir)
    config = read_config(node)
    _check_shapes(read_config({**trained, "device": "cpu"}), config)
    best, last = run.checkpoints.best(), run.checkpoints.newest()
    state = best or last
    if state is None:
        raise MetarunError(f"{run.directory} has no checkpoint yet: type {resume_command(run.directory)}")
    parts = build(config)
    parts.learner.load_state_dict(state["learner"])
    parts.source.prepare(parts.device)
    # What the run chose, unless something else is typed: with it the last bits are those of its own test.
    chosen = dict((last or state)["engine"])
    before = trained["engine"]
    chosen |= {key: value for key, value in config.engine if value not in ("auto", before.get(key, value))}
    engine = Engine(**chosen)
    fix(config.seed, "test")
    curve = evaluate(
        parts.learner,
        parts.source,
        "test",
        config.train.test_tasks,
        chunk=engine.chunk,
        workers=engine.use(parts.learner),
        progress=partial(chunks_bar, "test"),
    )
    name = f"evaluations/{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}.json"
    content = {"overrides": given.overrides, "checkpoint_step": state["step"], **curve.as_dict()}
    run.write_json(name, content)
    print(f"{curve_table(curve)}\n\nkept: {run.directory / name}")


def override(
    trained: dict[str, Any], overrides: Sequence[str], config_dir: str | None = None
) -> dict[str, Any]:
    """Return a run's config with some keys, or the whole data group, replaced.

    Raises:
        ConfigError: a key is not there, or does not bear on a test.
    """
    config = deepcopy(trained)
    # The group first: single keys are meant for the option that was chosen.
    for each in sorted(single_values(overrides), key=lambda each: each.key_or_group != "data"):
        _apply(config, each, config_dir)
    if any(config["data"].get(key) != trained["data"].get(key) for key in ("split", "seed", "rotations")):
        log.warning("other split, seed or rotations than in training: test classes may have been trained on")
    return config


def _apply(config: dict[str, Any], each: Override, config_dir: str | None) -> None:
    key = each.key_or_group
    if key == "data.train_shot" or not any(
        key == allowed or (allowed == "data" and key.startswith("data.")) for allowed in _OPEN
    ):
        raise ConfigError(
            f"{each.input_line}: a test does not depend on {key}{did_you_mean(key, _OPEN)}; "
            f"choose from {', '.join(_OPEN)}"
        )
    if key == "data":
        chosen = compose_config([str(each.input_line), f"seed={config['seed']}"], config_dir)["data"]
        # The run's own dataset stays as it was trained on; its default split could be another.
        if chosen.get("_target_") != config["data"]["_target_"]:
            config["data"] = chosen
        return
    node = set_key(config, each)
    if key == "engine.chunk":
        node["strategy"] = "auto"  # that of the training says nothing about this chunk


def _check_shapes(trained: Config, now: Config) -> None:
    """Raise ConfigError where the data does not fit the network that was trained."""
    before, after = build_source(trained), build_source(now)
    for what in ("input_shape", "output_size"):
        if getattr(before, what) != getattr(after, what):
            raise ConfigError(
                f"data: the run was trained with {what} {getattr(before, what)}, this data has "
                f"{getattr(after, what)}; type data and data.way as in the run"
            )
