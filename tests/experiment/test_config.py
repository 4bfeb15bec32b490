"""Every yaml there is composes, passes its checks and builds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from picture_files import album, class_folders

from metarun.config.composition import compose_config
from metarun.config.options import CONF, Option
from metarun.errors import ConfigError
from metarun.experiment.build import build, build_metagradient, build_outer
from metarun.experiment.config import read_config

ON_IMAGES = (
    *("baseline", "baseline++", "finetune"),
    *("simpleshot", "bdcspn", "laplacianshot", "tim", "pt_map"),
)
YAMLS = sorted(CONF.glob("*/*.yaml"))
ids = [f"{path.parent.name}={path.stem}" for path in YAMLS]
ALONE = {"_target_": "lone_learners.ShiftedMean"}


@pytest.mark.parametrize("path", YAMLS, ids=ids)
def test_every_option_composes_checks_and_builds(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs = {
        "conv4": ["model=conv4", "data=omniglot"],
        "timm": ["algo=nearest", "data=omniglot", "model.pretrained=false"],
        "efficientnet_lite0": ["algo=nearest", "data=omniglot"],
        **{model: ["data=omniglot"] for model in ("resnet10", "resnet12", "resnet18", "wrn28_10")},
        "implicit": ["algo.proximal=2"],
        "reptile": ["metagradient=reptile"],
        "protonet": ["data=binary_classification"],
        "matchingnet": ["data=binary_classification"],
        "r2d2": ["data=binary_classification"],
        "feat": ["data=binary_classification"],
        "soft_kmeans": ["data=binary_classification"],
        "metaoptnet": ["data=binary_classification"],
        "logistic": ["data=binary_classification"],
        "proto_maml": ["data=binary_classification"],
        "relationnet": ["data=omniglot"],
        "nearest": ["data=binary_classification"],
        **{algo: ["data=omniglot"] for algo in ON_IMAGES},
        **{
            algo: ["data=binary_classification"]
            for algo in ("bayes_oracle", "hypernet_head", "leo", "metanet")
        },
        "sklearn": ["algo=sklearn"] if path.parent.name == "algo" else [],
        "tables": ["algo=sklearn"],
        "meta_album": ["data.root=album", "data.name=BRD_Mini", "data.way=2", "data.query=2"],
        "mixture": ["data.sources=[omniglot,glyphs]"],
        "folder": ["data.root=pictures", "data.way=2", "data.query=1"],
        "arrays": ["data.file=rows.npz", "model=mlp"],
    }
    extra = needs.get(path.stem, [])
    monkeypatch.chdir(tmp_path)
    if path.stem == "arrays":
        np.savez("rows.npz", x=np.zeros((300, 3)), y=np.arange(300) % 30)
    if path.stem == "folder":
        class_folders(tmp_path / "pictures", dict.fromkeys("abcdefghij", 2))
    if path.stem == "meta_album":
        album(tmp_path / "album")
    if path.stem == "timm":
        pytest.importorskip("timm")
    config = read_config(compose_config([*extra, f"{path.parent.name}={path.stem}"]))
    if path.stem == "none":
        with pytest.raises(
            ConfigError, match=rf"^{path.parent.name}=none: algo\._target_=.* needs one: metarun"
        ):
            build(config)
        config = read_config(compose_config(["model=none", "inner=none"]) | {"algo": ALONE})
    learner = build(config).learner
    build_metagradient(config, learner)
    build_outer(config, learner)


@pytest.mark.parametrize("group", ["model", "inner"])
def test_a_group_that_a_learner_does_not_use_is_refused(group: str) -> None:
    (other,) = {"model", "inner"} - {group}
    node = compose_config([f"{other}=none"]) | {"algo": ALONE}
    with pytest.raises(ConfigError, match=rf"ShiftedMean uses no {group}, .* no effect: type {group}=none$"):
        build(read_config(node))
    node = compose_config(["model=none", "inner=none", f"+{group}.steps=3"]) | {"algo": ALONE}
    with pytest.raises(ConfigError, match=rf"^{group}\.steps=3: with {group}=none this key has no effect"):
        read_config(node)


def test_there_is_nothing_to_freeze_without_a_model() -> None:
    node = compose_config(["model=none", "inner=none"]) | {"algo": {**ALONE, "freeze": "all"}}
    with pytest.raises(
        ConfigError, match=r"^algo\.freeze=all: algo\._target_=.* has no model whose parameters could"
    ):
        build(read_config(node))


@pytest.mark.parametrize("path", YAMLS, ids=ids)
def test_every_option_says_what_it_is_and_the_command_that_uses_it(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert re.match(
        rf"# metarun .*(?<!\S){path.parent.name}={re.escape(path.stem)}|# metarun (train|engine)\.", lines[0]
    )
    assert len(Option.read(path).description) > 20


@pytest.mark.parametrize("data", ["sinusoid", "linear_regression", "binary_classification", "omniglot"])
@pytest.mark.parametrize("algo", ["maml", "fomaml", "reptile", "metasgd", "anil"])
def test_every_algorithm_goes_with_every_dataset(algo: str, data: str) -> None:
    config = read_config(compose_config([f"algo={algo}", f"data={data}"]))
    build_metagradient(config, build(config).learner)


def test_a_users_choice_wins_over_what_an_algorithm_or_dataset_brings() -> None:
    node = compose_config(
        ["algo=metasgd", "data=omniglot", "inner.lr=0.3", "model=mlp", "train.meta_batch=3"]
    )
    assert node["inner"]["lr"] == 0.3
    assert node["model"]["_target_"] == "metarun.models.MLP"
    assert node["train"]["meta_batch"] == 3


def test_what_the_data_suggests_is_for_sgd_only() -> None:
    rates = {
        inner: compose_config(["data=omniglot", f"inner={inner}"])["inner"]["lr"] for inner in ("sgd", "adam")
    }
    assert rates == {"sgd": 0.4, "adam": 0.001}
    assert compose_config([])["inner"]["lr"] == 0.01


@pytest.mark.parametrize("inner", ["sgd", "adam", "metasgd"])
@pytest.mark.parametrize("algo", ["maml", "fomaml", "metasgd", "anil"])
def test_every_algorithm_goes_with_every_rule(algo: str, inner: str) -> None:
    config = read_config(compose_config([f"algo={algo}", f"inner={inner}"]))
    build_metagradient(config, build(config).learner)


def test_a_config_is_plain_values() -> None:
    json.dumps(compose_config(["experiment=omniglot_reptile"]))


def test_model_shapes_follow_from_the_data() -> None:
    learner = build(read_config(compose_config(["data=omniglot", "data.way=7"]))).learner
    assert learner.model.head.out_features == 7
    assert learner.model.body.block1.conv.in_channels == 1


def test_the_seed_decides_the_weights_and_nothing_else_does() -> None:
    def weights(*overrides: str):
        return [
            p.detach().clone() for p in build(read_config(compose_config([*overrides]))).learner.parameters()
        ]

    first, again, other = weights("algo=metasgd"), weights("algo=metasgd"), weights("algo=metasgd", "seed=1")
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not all(a.equal(b) for a, b in zip(first, other, strict=True))


def test_reptile_refuses_a_rule_with_weights_of_its_own() -> None:
    config = read_config(compose_config(["algo=reptile", "inner=metasgd"]))
    learner = build(config).learner
    with pytest.raises(ConfigError, match="inner=sgd"):
        build_metagradient(config, learner)


MINE = """
import functools
import os
import torch
from metarun.rules import SGD

class Picky(torch.nn.Module):
    def __init__(self, *, width: int = 3):  # takes none of the shapes
        super().__init__()

class Broken(torch.nn.Module):
    def __init__(self, *, input_shape, output_size):
        super().__init__()
        self.head = torch.nn.Linear(input_shape[7], output_size)

class Nested(torch.nn.Module):
    def __init__(self, *, input_shape, output_size, parts=None):
        super().__init__()
        self.head = torch.nn.Linear(1, 1)
        self.parts = parts

def small(*, input_shape, output_size) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(1, 1))

def unsaid(*, input_shape, output_size):
    return torch.nn.Sequential(torch.nn.Linear(1, 1))

def lies(*, input_shape, output_size) -> torch.nn.Module:
    return 3

def for_checkers(*, input_shape, output_size) -> "nn.Module":  # a name that only a type checker knows
    return torch.nn.Sequential(torch.nn.Linear(1, 1))

partial = functools.partial(torch.nn.Linear, 1)

def touch(path: str, input_shape=None, output_size=None):
    open(path, "w").close()
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine_of_config.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def with_model(name: str, **arguments: object) -> dict[str, object]:
    return compose_config([]) | {"model": {"_target_": f"mine_of_config.{name}", **arguments}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "Picky",
            r"mine_of_config.Picky fails: TypeError: .*unexpected keyword argument 'input_shape'",
        ),
        (
            "Broken",
            r"mine_of_config.Broken fails: IndexError: list index out of range \(mine.*py, line 14\)",
        ),
        (
            "unsaid",
            r"model._target_=mine_of_config.unsaid: expected a subclass of .*Module \(or a function",
        ),
        (
            "for_checkers",
            r"mine_of_config.for_checkers: expected a subclass of .* \(or a function annotated to",
        ),
        (
            "partial",
            r"model._target_=mine_of_config.partial: expected a class or a function, found functools",
        ),
        ("lies", r"model: expected a Module, got int"),
        ("Missing", r"model._target_=mine_of_config.Missing: cannot be imported \(AttributeError"),
        ("SGD", r"model.lr is missing: type model.lr=VALUE"),
    ],
)
def test_a_class_that_does_not_take_what_it_is_given_is_one_line(mine: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(read_config(with_model(name)))
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_that_says_what_it_makes_will_do(mine: Path) -> None:
    assert build(read_config(with_model("small"))).learner.model[0].in_features == 1


@pytest.mark.parametrize("group", ["model", "algo", "inner", "metagradient", "data", "outer.optimizer"])
@pytest.mark.parametrize("target", ["mine_of_config.touch", "os.mkdir", "builtins.exec"])
def test_a_config_of_a_strangers_calls_no_function_there_is(mine: Path, group: str, target: str) -> None:
    node = compose_config([])
    path = str(mine / "called")
    *parents, last = group.split(".")
    holder = node
    for each in parents:
        holder = holder[each]
    holder[last] = {"_target_": target, "path": path}
    with pytest.raises(ConfigError, match=rf"{group}._target_={target}: expected a"):
        build(read_config(node))
    assert not Path(path).exists()


def test_nor_one_that_is_hidden_in_an_argument(mine: Path) -> None:
    hidden = {"_target_": "mine_of_config.touch", "path": str(mine / "called")}
    learner = build(read_config(with_model("Nested", parts=hidden))).learner
    assert learner.model.parts == hidden
    assert not (mine / "called").exists()


SOURCES = """
import torch
from metarun.tasks import Sinusoid

class NoShape(Sinusoid):
    input_shape = None

class OddShape(Sinusoid):
    input_shape = 3

class NoLoss(Sinusoid):
    loss = None

class NoMetrics(Sinusoid):
    def __init__(self, **more):
        super().__init__(**more)
        self.metrics = None

class BatchOnly:
    def __init__(self, *, shot=1): ...
    def batch(self, split, first_episode, count): ...
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoShape", "its input_shape is None, expected the shape of one example"),
        ("OddShape", "its input_shape is 3, expected the shape of one example"),
        ("NoLoss", "its loss is None, expected a function of predictions and targets"),
        ("NoMetrics", "its metrics is None, expected a tuple of metarun.tasks.Metric"),
        ("BatchOnly", "its input_shape is None, expected the shape of one example"),
    ],
)
def test_a_source_that_lacks_something_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (tmp_path / "sources_of_config.py").write_text(SOURCES)
    monkeypatch.syspath_prepend(tmp_path)
    node = compose_config([])
    keys = {"shot": 1} if name == "BatchOnly" else {"shot": 2, "query": 2}
    node["data"] = {"_target_": f"sources_of_config.{name}", **keys}
    with pytest.raises(ConfigError, match=f"data._target_=sources_of_config.{name}: {message}"):
        build(read_config(node))


@pytest.mark.parametrize("optimizer", ["LBFGS", "SparseAdam"])
def test_an_optimizer_that_cannot_take_a_step_is_refused(optimizer: str) -> None:
    node = compose_config([])
    node["outer"]["optimizer"] = {"_target_": f"torch.optim.{optimizer}"}
    config = read_config(node)
    with pytest.raises(ConfigError, match=rf"outer.optimizer._target_=torch.optim.{optimizer} needs"):
        build_outer(config, build(config).learner)
