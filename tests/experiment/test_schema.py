"""A class's signature as the schema of its node."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from pydantic import PositiveInt

from metarun.errors import ConfigError
from metarun.experiment.schema import check, locate, target_fields


class Parent:
    def __init__(self, *, shot: PositiveInt, seed: int = 0) -> None: ...


class Child(Parent):
    def __init__(
        self,
        *,
        split: Literal["random", "lake"] = "random",
        rates: tuple[float, float] = (0, 1),
        **shared: Any,
    ) -> None: ...


class Open:
    def __init__(self, known: bool = True, **anything: Any) -> None: ...


class Plain(torch.nn.Module):
    pass


class HandsOn(Parent):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def problem(node: dict[str, Any], target: type = Child, given: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        check("data", node, target_fields(target, given))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_parents_arguments_count_where_a_child_hands_them_on() -> None:
    fields = target_fields(Child)
    assert list(fields.types) == ["split", "rates", "shot", "seed"]
    assert fields.required == {"shot"}
    assert not fields.open_ended
    check("data", {"_target_": "x.Child", "shot": 3, "rates": [1, 2.5], "split": "lake"}, fields)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (
            {"shot": 1, "shoot": 2},
            "data.shoot=2: there is no such key; did you mean shot?; choose from split, rates",
        ),
        ({"shot": 0}, "data.shot=0: should be greater than 0"),
        ({"shot": "1"}, "data.shot='1': should be a valid integer"),
        ({"shot": True}, "data.shot=true: should be a valid integer"),
        ({"shot": None}, "data.shot=null: should be a valid integer"),
        ({"shot": 1, "rates": [1]}, "data.rates=[1]: "),
        ({"shot": 1, "rates": [1, "a"]}, "data.rates=[1, 'a']: should be a valid number"),
        ({"shot": 1, "rates": [1, float("nan")]}, "data.rates=[1, nan]: should be a finite number"),
        (
            {"shot": 1, "split": "rando"},
            "data.split=rando: should be 'random' or 'lake'; did you mean random?",
        ),
        ({"seed": 1}, "data.shot is missing: type data.shot=VALUE"),
    ],
)
def test_problems_are_one_line_that_names_the_key(node: dict[str, Any], expected: str) -> None:
    assert problem(node).startswith(expected)


def test_what_metarun_gives_itself_cannot_be_set() -> None:
    assert "there is no such key" in problem({"shot": 1, "seed": 3}, given=("seed",))


def test_a_class_without_a_constructor_takes_nothing() -> None:
    assert "there is no such key; choose from (it has none)" in problem({"a": 1}, Plain)
    assert "there is no such key" in problem({"_partial_": True}, Plain)


def test_a_constructor_that_only_hands_on_has_its_parents_arguments() -> None:
    assert list(target_fields(HandsOn).types) == ["shot", "seed"]
    assert "there is no such key" in problem({"shot": 1, "other": 1}, HandsOn)


def test_a_constructor_open_to_anything_takes_anything() -> None:
    check("model", {"known": False, "other": [1]}, target_fields(Open))
    assert problem({"known": "yes"}, Open).startswith("data.known=yes: should be a valid boolean")


@pytest.mark.parametrize("target", [None, "Sinusoid", "metarun.tasks.Sinusoids", "no_such_package.Thing"])
def test_a_target_that_is_not_there_is_an_error(target: str | None) -> None:
    with pytest.raises(ConfigError, match=r"data\._target_="):
        locate("data", {"_target_": target})
