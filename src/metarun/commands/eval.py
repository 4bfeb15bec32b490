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

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from metarun.build import Parts, build
from metarun.compose import COMPOSITION_ERRORS, compose_config, explain
from metarun.config import read_config
from metarun.errors import ConfigError, MetarunError
from metarun.evaluate import evaluate
from metarun.reports.table import curve_table
from metarun.runs.directory import Run
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
)


def main(arguments: list[str]) -> None:
    """Test again, print the table, and keep it in the run's evaluations/.

    Raises:
        ConfigError: an override does not fit, or does not bear on a test.
        MetarunError: the directory is not a run's, or has no checkpoint.
    """
    parser = argparse.ArgumentParser(
        "metarun",
        description="Test a run's best checkpoint again.",
        epilog=f"overrides of: {', '.join(_OPEN)}",
    )
    parser.add_argument("eval", help=argparse.SUPPRESS)
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in data.shot=5 inner.test_steps=10")
    given = parser.parse_args(arguments)
    run = Run.open(given.run)
    trained = run.config()
    config = read_config(override(trained, given.overrides))
    state = run.load("best") or run.load("last")
    if state is None:
        raise MetarunError(f"{run.directory} has no checkpoint yet: type metarun resume {run.directory}")
    parts = build(config)
    _check_shapes(build(read_config(trained)), parts)
    parts.learner.load_state_dict(state["learner"])
    parts.source.prepare(parts.device)
    last = run.load("last")
    chunk = config.engine.chunk if isinstance(config.engine.chunk, int) else last["chunk"] if last else 1
    bar = partial(chunks_bar, "test")
    tasks = config.train.test_tasks
    curve = evaluate(parts.learner, parts.source, "test", tasks, chunk=chunk, progress=bar)
    name = f"evaluations/{datetime.now():%Y-%m-%d_%H-%M-%S}-{secrets.token_hex(3)}.json"
    content = {"overrides": given.overrides, "checkpoint_step": state["step"], **curve.as_dict()}
    run.write_json(name, content)
    print(f"{curve_table(curve)}\n\nkept: {run.directory / name}")


def override(trained: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a run's config with some keys, or the whole data group, replaced.

    Raises:
        ConfigError: a key is not there, or does not bear on a test.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except COMPOSITION_ERRORS as error:
        raise explain(error, overrides) from error
    config = deepcopy(trained)
    # The group first: single keys are meant for the option that was chosen.
    for each in sorted(parsed, key=lambda each: each.key_or_group != "data"):
        _apply(config, each)
    return config


def _apply(config: dict[str, Any], each: Override) -> None:
    key = each.key_or_group
    if not any(key == allowed or (allowed == "data" and key.startswith("data.")) for allowed in _OPEN):
        raise ConfigError(
            f"{each.input_line}: a test does not depend on {key}{did_you_mean(key, _OPEN)}; "
            f"choose from {', '.join(_OPEN)}"
        )
    if key == "data":
        # A choice for the run as a whole, such as its seed, holds for the other data too.
        config["data"] = compose_config([str(each.input_line), f"seed={config['seed']}"])["data"]
        return
    if key in ("data.split", "data.seed", "data.rotations"):
        log.warning(
            "%s: the test classes may be others now, and some may have been trained on", each.input_line
        )
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[name] = each.value()


def _check_shapes(trained: Parts, now: Parts) -> None:
    """Raise ConfigError where the data does not fit the network that was trained."""
    for what in ("input_shape", "output_size"):
        before, after = getattr(trained.source, what), getattr(now.source, what)
        if before != after:
            raise ConfigError(
                f"data: the run was trained with {what} {before}, this data has {after}; "
                f"type data and data.way as in the run"
            )
