"""What may be typed behind `metarun resume RUN`."""

from __future__ import annotations

import pytest

from metarun.cli.resume import override
from metarun.config.composition import compose_config
from metarun.errors import ConfigError


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
