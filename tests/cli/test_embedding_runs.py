"""Runs of learners that embed: other sizes in training than at test, any way, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Typed = Callable[..., tuple[int, str, str]]

FEW = [
    *("data=omniglot", "model.filters=8", "device=cpu", "engine.chunk=4", "train.meta_batch=2"),
    *("train.steps=20", "train.validate_every=10", "train.validation_tasks=8", "train.test_tasks=20"),
]


@pytest.fixture
def trained(typed: Typed, omniglot_root: Path) -> Typed:
    words = ["algo=protonet", *FEW, "data.train_way=10", "data.train_shot=2", "data.train_query=3"]
    status, printed, said = typed(*words, "hydra.run.dir=run")
    assert status == 0, said
    assert "accuracy (%)" in printed
    assert "confidence interval; not transductive" in printed
    assert json.loads(Path("run/results.json").read_text())["transductive"] is False
    return typed


def test_a_run_is_tested_with_any_way_and_with_other_statistics(trained: Typed) -> None:
    def accuracy(*words: str) -> float:
        status, printed, said = trained("eval", "run", *words)
        assert status == 0, said
        assert ("interval; transductive" in printed) == ("algo.transductive=true" in words)
        newest = max(Path("run/evaluations").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return float(json.loads(newest.read_text())["final"]["accuracy"]["mean"])

    own = json.loads(Path("run/results.json").read_text())["final"]["accuracy"]["mean"]
    assert accuracy() == own
    assert 0.1 < accuracy("data.way=20") < own
    assert accuracy("data.shot=5") > own
    assert accuracy("algo.transductive=true") > own  # after so few steps running statistics are far behind
    for word in ("data.train_way=5", "data.train_shot=1", "data.train_query=1"):
        status, _, said = trained("eval", "run", word)
        assert (status, said.count("\n")) == (2, 1)
        assert f"{word}: {word.partition('=')[0]} cannot be changed for a test" in said


def test_what_the_training_does_not_use_may_be_changed_for_a_test(typed: Typed, omniglot_root: Path) -> None:
    words = ["algo=bdcspn", *FEW, "train.steps=2", "train.validate_every=0", "data.train_batch=8"]
    assert typed(*words, "hydra.run.dir=run")[0] == 0

    def loss(*words: str) -> float:
        status, _, said = typed("eval", "run", *words)
        assert status == 0, said
        newest = max(Path("run/evaluations").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        return float(json.loads(newest.read_text())["final"]["loss"]["mean"])

    own = json.loads(Path("run/results.json").read_text())["final"]["loss"]["mean"]
    assert loss("algo.temperature=10") == own
    assert loss("algo.temperature=5") != own
    status, _, said = typed("eval", "run", "algo.scale=5")
    assert status == 2
    assert "algo.scale cannot be changed for a test" in said
    assert "algo.epsilon, algo.most, algo.temperature, algo.transform" in said


def test_it_goes_on_and_is_compared_with_others_on_the_same_tasks(trained: Typed) -> None:
    status, _, said = trained("resume", "run", "train.steps=24")
    assert status == 0, said
    assert "resuming at step 20 of 24" in said
    status, printed, said = trained("-m", "algo=maml,protonet,r2d2", *FEW, "train.steps=2")
    assert status == 0, said
    table = [
        line.split()[0] for line in printed.splitlines() if line.startswith(("maml", "protonet", "r2d2"))
    ]
    assert sorted(table) == ["maml", "protonet", "r2d2"]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["algo=maml", "data.train_way=10"], "has a head of fixed size: leave data.train_way out, or type"),
        (
            ["algo=baseline", "data.train_batch=null"],
            "is trained on images of all training classes: type data.tr",
        ),
        (
            ["algo=maml", "data.train_batch=8"],
            "is trained on episodes: type data.train_batch=null, or algo=bas",
        ),
        (
            ["algo=baseline", "data=sinusoid"],
            "has no classes to be trained on as a whole, as algo=baseline is",
        ),
        (
            ["algo=baseline", "inner=metasgd"],
            "LearnedRates has weights of its own, which supervised training",
        ),
        (
            ["algo=relationnet", "model=mlp"],
            "MLP has no feature maps to compare (`feature_shape`): type model=conv4",
        ),
        (["algo=protonet", "inner=sgd"], "uses no inner, so its keys would have no effect: type inner=none"),
        (
            ["algo=protonet", "metagradient=reptile"],
            "trains learners of the kind GradientAdaptation, not ProtoNet",
        ),
        (["algo=protonet", "algo.distance=euclid"], "algo.distance=euclid: should be 'squared_euclidean' or"),
        (["algo=protonet", "outer.schedule=step"], "type outer.schedule=step outer.drop_every=2000"),
        (["algo=protonet", "outer.drop_to=0.1"], "outer.drop_to=0.1 has no effect with outer.schedule=const"),
        (["algo=protonet", "algo.temperature=3"], "algo.temperature=3 has no effect with algo.distance=sq"),
        (["algo=matchingnet", "algo.attention_steps=2"], "has no effect with algo.full_context=false: type"),
        (["algo=protonet", "engine.compile=true"], "the number of classes follows from the labels of a task"),
        (["algo=r2d2", "algo.regularisation=0"], "algo.regularisation=0: should be greater than 0"),
        (["algo=protonet", "data=sinusoid"], "its targets are values, and algo._target_="),
        (
            ["algo=protonet", "data=binary_classification", "data.loss=binary_cross_entropy", "model=mlp"],
            "its targets are binary, and algo._target_=",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(typed: Typed, words: list[str], complaint: str) -> None:
    status, _, said = typed("data=omniglot", *words)
    assert (status, said.count("\n")) == (2, 1), said
    assert complaint in said
    assert not Path("outputs").exists()


def test_a_learner_with_a_head_is_tested_with_its_own_way(typed: Typed, omniglot_root: Path) -> None:
    assert typed("algo=maml", *FEW, "train.steps=1", "hydra.run.dir=run")[0] == 0
    status, _, said = typed("eval", "run", "data.way=20")
    assert (status, said.count("\n")) == (2, 1)
    assert "(algo=protonet and others without a head take any way)" in said


def test_an_option_with_the_name_of_a_built_in_one_is_not_ignored(typed: Typed) -> None:
    Path("mine/algo").mkdir(parents=True)
    Path("mine/algo/nearest.yaml").write_text("_target_: mine.Nearest\n")
    status, _, said = typed("--config-dir", "mine", "algo=nearest", "data=omniglot")
    assert (status, said.count("\n")) == (2, 1)
    assert "mine/algo/nearest.yaml: algo=nearest is one of metarun's own" in said
