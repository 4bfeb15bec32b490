"""What may be typed behind `metarun resume RUN`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metarun.cli.resume import override
from metarun.config.composition import compose_config
from metarun.errors import ConfigError

Typed = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.activation=tanh", "model.activation cannot change on resume"),
        ("train.meta_batch=5", "train.meta_batch cannot change on resume"),
        ("traim.steps=5", "traim.steps cannot change on resume; did you mean"),
        ("algo=maml", "algo cannot change on resume"),
        ("train.steps=20,30", "one value at a time"),
        ("~train.steps", "every key is needed"),
        ("train.steps.more=1", "steps has no keys"),
        ("nonsense", "nonsense: not of the form key=value"),
    ],
)
def test_what_a_run_keeps_is_refused(word: str, message: str) -> None:
    config = compose_config([])
    with pytest.raises(ConfigError, match=message):
        override(config, [word])


def test_what_may_change_is_changed_in_a_copy() -> None:
    config = compose_config([])
    changed = override(config, ["train.steps=7", "outer.lr=0.5", "train.max_time=1h"])
    assert (changed["train"]["steps"], changed["outer"]["lr"]) == (7, 0.5)
    assert changed["train"]["max_time"] == "1h"
    assert config["train"]["steps"] == 5000


def test_the_best_checkpoint_of_before_is_still_the_best(typed: Typed) -> None:
    few = ["train.meta_batch=2", "train.validation_tasks=4", "train.test_tasks=4", "device=cpu"]
    assert typed("train.steps=2", "train.validate_every=2", *few, "hydra.run.dir=run")[0] == 0
    status, _, said = typed("resume", "run", "train.steps=3", "train.validate_every=0")
    assert status == 0, said
    assert "belongs to a run with another config" not in said
    assert json.loads(Path("run/results.json").read_text())["checkpoint_step"] == 2
