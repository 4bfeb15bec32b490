"""Datasets that are named inside the keys of another one."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from metarun.config.composition import compose_config
from metarun.config.options import CONF
from metarun.config.parts import with_parts
from metarun.errors import ConfigError


def test_a_name_becomes_the_keys_of_its_yaml_without_those_that_all_share() -> None:
    node = with_parts({"test": "omniglot", "way": 3})["test"]
    own = yaml.safe_load((CONF / "data/omniglot.yaml").read_text())["data"]
    assert node == {
        "label": "omniglot",
        **{key: own[key] for key in ("_target_", "split", "rotations", "resize", "root")},
    }
    folder = with_parts({"test": "folder:some/where"})["test"]
    assert (folder["root"], folder["shares"], folder["label"]) == ("some/where", [0, 0, 1], "folder:where")
    assert with_parts({"test": {"data": "folder:a", "shares": [0.5, 0, 0.5]}})["test"]["shares"] == [
        0.5,
        0,
        0.5,
    ]
    assert with_parts({"test": "arrays:a.csv"})["test"]["file"] == "a.csv"
    assert with_parts({"test": "sinusoid"})["test"]["amplitude"] == [0.1, 5.0]
    assert with_parts({"way": 3}) == {"way": 3}
    assert with_parts({"test": None}) == {"test": None}


def test_what_is_in_full_stays_as_it_is() -> None:
    once = with_parts({"sources": ["glyphs", {"data": "folder", "root": "a", "levels": 2}]})
    assert [part["label"] for part in once["sources"]] == ["glyphs", "folder:a"]
    assert once["sources"][1]["levels"] == 2
    assert "shares" not in once["sources"][1]
    assert with_parts(once) == once
    assert with_parts({"test": {"_target_": "my.Data", "a": 1}})["test"]["label"] == "Data"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("omniglott", r"omniglott is no dataset; did you mean omniglot.*type the name of one"),
        ("sinusoid:a", "sinusoid reads no files: type data.test=sinusoid"),
        ("mixture", "mixture is no dataset"),
        (3, "3 is no dataset"),
        ({"root": "a"}, "nothing is no dataset"),
        ([1], "is no dataset"),
    ],
)
def test_other_names_are_one_line(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        with_parts({"test": given})
    assert "\n" not in str(error.value)


def test_composing_writes_them_out() -> None:
    data = compose_config(["data=mixture", "data.sources=[omniglot,{data: folder, root: a}]"])["data"]
    assert [part["_target_"].rpartition(".")[2] for part in data["sources"]] == ["Omniglot", "ImageFolder"]
    assert compose_config(["data.test=harmonic"])["data"]["test"]["label"] == "harmonic"
