"""A learner of one's own that adapts by no gradient: one class of fifteen lines and one yaml."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Typed = Callable[..., tuple[int, str, str]]

PROTONET = """\
import torch
from metarun.learners import Learner

class ProtoNet(Learner):
    model_output_size = staticmethod(lambda output_size: None)

    def __init__(self, *, model):
        super().__init__()
        self.model = model

    def embed(self, x):
        return self.model(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    def adapt(self, tasks):
        member = torch.nn.functional.one_hot(tasks.support.y).to(tasks.support.x.dtype)
        return member.mT @ self.embed(tasks.support.x) / member.sum(1)[..., None]

    def predict(self, prototypes, x):
        return -(self.embed(x)[:, :, None] - prototypes[:, None]).square().sum(-1)
"""

YAML = """\
# @package _global_
# metarun algo=centroid data=binary_classification --config-dir myconf
# The nearest class mean of a learned embedding (Snell, Swersky & Zemel 2017, arXiv:1703.05175).
defaults:
  - override /inner: none
  - _self_

algo:
  _target_: my_protonet.ProtoNet
"""

FEW = [
    *("--config-dir", "myconf", "algo=centroid", "data=binary_classification", "data.dimension=4"),
    *("model.hidden=[8]", "device=cpu", "train.steps=60", "train.meta_batch=8", "train.validate_every=20"),
    *("train.validation_tasks=20", "train.test_tasks=100", "outer.lr=0.01"),
]


@pytest.fixture
def own(tmp_path: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch) -> Typed:
    (tmp_path / "my_protonet.py").write_text(PROTONET)
    (tmp_path / "myconf" / "algo").mkdir(parents=True)
    (tmp_path / "myconf" / "algo" / "centroid.yaml").write_text(YAML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "my_protonet", raising=False)
    return typed


def test_it_has_fifteen_lines_at_most() -> None:
    assert len([line for line in PROTONET.splitlines() if line.strip()]) <= 15


def test_it_is_trained_tested_resumed_and_compared(own: Typed) -> None:
    status, printed, said = own(*FEW, "hydra.run.dir=run")
    assert status == 0, said
    assert "accuracy (%)" in printed
    assert "adaptation steps" not in printed
    results = json.loads(Path("run/results.json").read_text())
    assert results["axis"] == "shots"
    assert [point["step"] for point in results["curve"]] == [1, 2, 3, 4, 5]
    assert results["final"]["accuracy"]["mean"] > 0.75  # before training: 0.72; by chance: 0.5
    assert own("eval", "run", "data.shot=5")[0] == 0
    status, _, said = own("resume", "run", "train.steps=70")
    assert status == 0, said
    assert own("diff", "run", "run")[1] == "nothing differs, the results included\n"
    assert "needs a learner with an inner loop, this is a ProtoNet" in own("continual", "run")[2]


def test_its_meta_gradient_is_that_of_a_loop_over_tasks(own: Typed) -> None:
    from my_protonet import ProtoNet

    from metarun.engine.executor import Executor
    from metarun.engine.meta_steps import meta_steps
    from metarun.engine.settings import Engine
    from metarun.metagradients import Exact, Progress
    from metarun.models import MLP
    from metarun.tasks import BinaryClassification

    torch.manual_seed(0)
    model = MLP(input_shape=(4,), output_size=None, hidden=(8,)).double()
    assert model.features == 8
    learner = ProtoNet(model=model)
    source = BinaryClassification(shot=3, query=4, dimension=4, dtype=torch.float64)
    tasks = source.batch("train", 0, 5)
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=2), learner))
    losses = []
    for t in range(5):
        embedded, labels = model(tasks.support.x[t]), tasks.support.y[t]
        means = torch.stack([embedded[labels == label].mean(0) for label in (0, 1)])
        distances = torch.stack([(model(tasks.query.x[t]) - mean).square().sum(1) for mean in means], 1)
        losses.append(torch.nn.functional.cross_entropy(-distances, tasks.query.y[t]))
    torch.testing.assert_close(step.scores["loss"], torch.stack(losses))
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(model.parameters()))
    for gradient, other in zip(step.gradients.values(), expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["inner.steps=50"], "inner.steps=50: with inner=none this key has no effect"),
        (["inner=sgd"], "uses no inner, so its keys would have no effect: type inner=none"),
        (["engine.rematerialise=true"], "has no inner steps to recompute"),
        (["metagradient=first_order"], "trains learners of the kind GradientAdaptation, not ProtoNet"),
        (["metagradient=multi_step"], "trains learners of the kind IterativeLearner, not ProtoNet"),
        (["algo.adapts=head"], "algo.adapts=head: there is no such key; choose from freeze"),
        (["model=none"], "model.hidden=[8]: with model=none this key has no effect"),
    ],
)
def test_a_key_that_it_does_not_use_is_refused(words: list[str], complaint: str, own: Typed) -> None:
    status, _, said = own(*FEW, *words, "hydra.run.dir=run")
    assert status == 2
    assert complaint in said
    assert said.count("\n") == 1
    assert not Path("run").exists()


def test_query_targets_are_hidden_from_adaptation(own: Typed) -> None:
    from metarun.tasks import BinaryClassification

    tasks = BinaryClassification(shot=3, query=4).batch("train", 0, 5)
    shown = tasks.without_answers()
    assert shown.query.y.shape == tasks.query.y.shape
    assert not shown.query.y.any()
    assert tasks.query.y.any()


OTHERS = """\
import torch
from my_protonet import ProtoNet

class Looped(ProtoNet):  # half of an inner loop: so many rounds, without a rule
    def __init__(self, *, model, loop):
        super().__init__(model=model)
        self.loop = loop

class Wrapped(ProtoNet):  # what it passes on it makes itself
    needs = frozenset({"input_shape"})

    def __init__(self, *, input_shape, width: int = 4, **options):
        super().__init__(model=torch.nn.Linear(*input_shape, width), **options)

def factory(model: torch.nn.Module) -> ProtoNet:
    return ProtoNet(model=model)

class Failing(ProtoNet):
    def adapt(self, tasks):
        if not self.training:
            raise KeyError("only at test")
        return super().adapt(tasks)
"""


@pytest.fixture
def others(own: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Typed:
    (tmp_path / "my_others.py").write_text(OTHERS)
    monkeypatch.delitem(__import__("sys").modules, "my_others", raising=False)
    return own


@pytest.mark.parametrize(
    ("words", "status", "complaint"),
    [
        (["algo._target_=my_others.Looped", "+inner.steps=3"], 0, ""),
        (["algo._target_=my_others.Looped", "+inner.lr=9"], 2, "inner.lr=9: there is no such key"),
        (["algo._target_=my_others.Looped"], 2, "inner.steps is missing: type inner.steps=VALUE"),
        (["algo._target_=my_others.factory"], 0, ""),
        (["algo._target_=my_others.Wrapped"], 2, "uses no model"),
        (["algo._target_=my_others.Failing"], 2, "on this data: KeyError: 'only at test'"),
        (["engine.workers=2"], 2, "does not say that it is thread_safe: type engine.workers=1"),
    ],
)
def test_learners_of_other_kinds(words: list[str], status: int, complaint: str, others: Typed) -> None:
    found, _, said = others(*FEW, "train.steps=2", *words, "hydra.run.dir=run")
    assert (found, complaint in said) == (status, True), said
    assert "Traceback" not in said


def test_a_learner_that_makes_its_own_model_says_what_it_needs(others: Typed) -> None:
    words = [word for word in FEW if not word.startswith("model.")]
    own_model = ["algo._target_=my_others.Wrapped", "+algo.width=3", "model=none", "train.steps=2"]
    status, _, said = others(*words, *own_model, "hydra.run.dir=run")
    assert status == 0, said
