"""One error in the words of whoever reads it: Python's arguments, or the command line's keys."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from metarun.errors import ConfigError, Interrupted, MetarunError, UnfinishedError, with_keys
from metarun.metagradients import Exact
from metarun.rules import LearnedRates
from metarun.tasks.images.class_episodes import ClassEpisodes

SOURCE = Path(__file__).parents[1] / "src" / "metarun"


def test_arguments_are_named_as_python_and_as_the_command_line_have_them() -> None:
    error = ConfigError(
        "@rule.lr=0.1 is too large for @metagradient=implicit", "@loop.batch=null, or @rule=sgd"
    )
    assert str(error) == "lr=0.1 is too large for metagradient=implicit: give batch=None, or rule=sgd"
    with pytest.raises(ConfigError) as caught, with_keys():
        raise error
    expected = "inner.lr=0.1 is too large for metagradient=implicit: type inner.batch=null, or inner=sgd"
    assert str(caught.value) == expected


def test_other_text_stays_as_it_is() -> None:
    text = "mail@example.org, /home/me@model.v2/run, @nobody.x and data=null"
    assert str(MetarunError(text)) == text
    with pytest.raises(MetarunError, match=re.escape(text)), with_keys():
        raise MetarunError(text)


@pytest.mark.parametrize(
    ("fail", "in_python", "typed"),
    [
        (
            lambda: LearnedRates(lr=0.0, positive=True),
            "positive=True: lr and momentum have to start above 0",
            "inner.positive=true: inner.lr and inner.momentum have to start above 0",
        ),
        (
            lambda: Exact(objective="mean", anneal_for=0.5),
            "objective=mean and anneal_for=0.5 do not agree: give anneal_for=0",
            "metagradient.objective=mean and metagradient.anneal_for=0.5 do not agree: type "
            "metagradient.anneal_for=0",
        ),
    ],
)
def test_classes_speak_of_their_own_arguments(fail, in_python: str, typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fail()
    assert isinstance(caught.value, ValueError)
    assert str(caught.value) == in_python
    with pytest.raises(ConfigError) as caught, with_keys():
        fail()
    assert str(caught.value) == typed


def test_no_class_below_the_experiment_says_what_to_type() -> None:
    """Keys, and `type key=…`, are the command line's words; ClassEpisodes and the like know arguments."""
    keys = re.compile(r"(?<![@\w])(algo|inner|data|outer|train)\.[a-z_]+=|\btype (algo|inner|data|model)[.=]")
    found = {
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for package in ("tasks", "models", "rules", "learners", "metagradients")
        for path in (SOURCE / package).rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if keys.search(line) and "METARUN" not in line
    }
    assert not found
    assert ClassEpisodes.__module__.startswith("metarun.tasks")


def test_errors_survive_the_way_from_another_process() -> None:
    errors = (ConfigError("@rule.lr=1", "@rule.lr=0"), UnfinishedError("3 jobs", 124), Interrupted("x", 15))
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.exit_status) == (str(error), error.exit_status)
