"""Command lines made from conf/ and from what nobody should type: taken, or refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from metarun.config.composition import compose_config
from metarun.config.options import CONF, groups
from metarun.engine.settings import EngineSettings
from metarun.errors import MetarunError
from metarun.experiment.build import check_fit
from metarun.experiment.config import GIVEN, read_config
from metarun.experiment.outer import OuterSettings
from metarun.experiment.schema import locate, settings_fields, target_fields
from metarun.learners import InnerLoop

OPTIONS = {group: [each.name for each in found] for group, found in groups([CONF]).items()}
GROUPS = [group for group in OPTIONS if not group.startswith("hydra")]


def dotted(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix[:-1]]
    return [each for key, value in node.items() for each in dotted(value, f"{prefix}{key}.")]


KEYS = sorted({*dotted(compose_config([])), *dotted(compose_config(["data=omniglot", "algo=maml++"]))})

JUNK = [
    *(
        "0",
        "1",
        "-1",
        "2",
        "0.5",
        "-0.0",
        "1e9",
        "1e308",
        "-1e308",
        "1e-320",
        "nan",
        "inf",
        "-inf",
        ".5",
        "1_000",
    ),
    *(
        "2147483648",
        "4294967296",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775809",
        "1" * 40,
    ),
    *(
        "true",
        "false",
        "null",
        "None",
        "yes",
        "''",
        '""',
        "' '",
        "abc",
        "Ünïcödé",
        "🦜",
        "a b",
        "../../etc/passwd",
    ),
    *(
        "[]",
        "[0]",
        "[1e9]",
        "[null]",
        "[true]",
        "[[1,2],[3]]",
        "[1,a]",
        "{}",
        "{a:1}",
        "{_target_:os.getcwd}",
    ),
    *(
        "${seed}",
        "${nothing}",
        "${oc.env:HOME}",
        "${inner.lr}",
        "${",
        "}",
        "$",
        "\\",
        "'",
        '"',
        "=",
        "==",
        ",",
        "a,b",
    ),
    *(
        "[9223372036854775808]",
        "{a:{b:{c:1}}}",
        "1h",
        "90s",
        "0s",
        "cuda:99",
        "cpu:1",
        "x" * 300,
        "*",
        "!*",
        "\t",
        "%s",
    ),
    *(
        "os.getcwd",
        "os.system",
        "torch.nn.Linear",
        "metarun.models.MLP",
        "metarun.rules.SGD",
        "builtins.print",
        "a.b",
    ),
    *(
        "choice(1,2)",
        "range(1,3)",
        "interval(0,1)",
        "glob(*)",
        "float(1)",
        "int(1.5)",
        "str(1)",
        "sort(2,1)",
        "_",
    ),
]
MARKS = ["", "", "", "", "+", "++", "~"]

names = st.one_of(
    st.sampled_from(KEYS),
    st.sampled_from(GROUPS),
    st.sampled_from([f"{group}._target_" for group in (*GIVEN, "outer.optimizer", "train", "engine")]),
    st.sampled_from(
        ["_target_", "hydra.run.dir", "algo@data", "model@inner", "nothing", "seed.x", "inner.lr.x", "."]
    ),
    st.builds(
        "{}.{}".format,
        st.sampled_from(GROUPS),
        st.sampled_from(["_partial_", "_args_", "_convert_", "x", ""]),
    ),
)
choices = st.sampled_from(GROUPS).flatmap(
    lambda group: st.sampled_from(OPTIONS[group]).map(lambda option: f"{group}={option}")
)
words = st.one_of(
    choices,
    st.builds("{}{}={}".format, st.sampled_from(MARKS), names, st.sampled_from(JUNK)),
    st.builds("{}{}".format, st.sampled_from(MARKS), names),
)


def answer(typed: list[str]) -> str:
    """What the command line makes of these words before it begins to work."""
    try:
        check_fit(read_config(compose_config(typed)))
    except MetarunError as error:
        return " ".join(str(error).split())
    return ""


FOUND = [
    ["_target_=1"],
    ["search=[0]"],
    ["experiment=[1e9]"],
    ["experiment=[null]"],
    ["+algo@data=[true]"],
    ["metagradient._target_=../../etc/passwd"],
    ["model.filters=9223372036854775808"],
    ["model=conv4", "data=omniglot", "model.filters=9223372036854775808"],
    ["train._target_=1"],
    ["model._target_=os.getcwd"],
    ["inner.steps=9223372036854775808"],
]


@pytest.mark.slow
@settings(
    max_examples=3 * settings().max_examples,  # HYPOTHESIS_PROFILE=thorough: ten times as many
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
@given(typed=st.lists(words, min_size=1, max_size=4))
def test_any_words_are_taken_or_refused_in_one_line(typed: list[str]) -> None:
    said = answer(typed)
    assert len(said) < 1500, said
    assert "Traceback" not in said


@pytest.mark.parametrize("typed", FOUND, ids=" ".join)
def test_what_was_found_by_trying_is_refused(typed: list[str]) -> None:
    assert answer(typed)


@pytest.mark.parametrize("group", ["experiment"])
def test_of_many_options_the_nearest_are_named(group: str) -> None:
    said = answer([f"{group}=omniglot_maml_sort"])
    assert said.startswith(
        f"{group}=omniglot_maml_sort: there is no such option; did you mean omniglot_maml_short?"
    )
    assert said.endswith(f"all of them: metarun list {group}")
    assert len(said) < 250


def integers_without_a_bound(schema: Any, path: str = "") -> list[str]:
    """The places of a JSON schema where an integer may be as large as it likes."""
    if isinstance(schema, list):
        return [each for entry in schema for each in integers_without_a_bound(entry, path)]
    if not isinstance(schema, dict):
        return []
    found = []
    if schema.get("type") == "integer" and not {"maximum", "exclusiveMaximum", "enum"} & schema.keys():
        found.append(path)
    for key, value in schema.items():
        found += integers_without_a_bound(value, f"{path}/{key}")
    return found


def targets() -> list[tuple[str, str]]:
    """Every class that an option of conf/ names, with its group."""
    found = set()
    for group in GIVEN:
        for path in (CONF / group).glob("*.yaml"):
            content = yaml.safe_load(path.read_text())
            target = content.get(group, content).get("_target_")
            found |= {(group, target)} if target else set()
    return sorted(found)


@pytest.mark.parametrize(("group", "target"), targets(), ids=str)
def test_every_integer_has_an_upper_bound(group: str, target: str) -> None:
    fields = target_fields(locate(group, {"_target_": target}), GIVEN[group])
    for name, kind in fields.types.items():
        assert not integers_without_a_bound(TypeAdapter(kind).json_schema()), f"{group}.{name}"


@pytest.mark.parametrize("settings_class", [InnerLoop, EngineSettings, OuterSettings])
def test_every_integer_of_the_settings_too(settings_class: Any) -> None:
    for name, kind in settings_fields(settings_class).types.items():
        assert not integers_without_a_bound(TypeAdapter(kind).json_schema()), name
