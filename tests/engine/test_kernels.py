"""The engine with metarun's own kernels, and the plain one: the same meta-gradients; which is used when."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine, EngineSettings, with_kernels
from metarun.engine.tuning import choose, choose_for_evaluation
from metarun.errors import ConfigError
from metarun.learners import (
    GradientAdaptation,
    InnerLoop,
    Learner,
    MatchingNet,
    ProtoMAML,
    ProtoNet,
    RidgeRegression,
    kernels_available,
    use_kernels,
)
from metarun.metagradients import Exact, FirstOrder, Implicit, MetaGradient, Progress, Reptile
from metarun.models import Conv4, Linear
from metarun.rules import LSTM, SGD, Adam, LearnedRates, MetaCurvature
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import cross_entropy

pytestmark = pytest.mark.skipif(not kernels_available(), reason="no C++ compiler")

CPU = torch.device("cpu")
WAYS = {
    "plain": Engine(chunk=1, plain=True),
    "torch": Engine(chunk=3),
    "kernels": Engine(chunk=3, kernels=True),
    "kernels, task by task": Engine(chunk=1, workers=2, kernels=True),
}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    use_kernels(enabled=False)


def network(filters: int = 16, output_size: int | None = 3) -> Conv4:
    torch.manual_seed(0)
    return Conv4(input_shape=(1, 16, 16), output_size=output_size, filters=filters).double()


def batch(tasks: int = 3) -> Tasks:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, tasks, 6, 1, 16, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(6).remainder(3).expand(tasks, 6)
    return Tasks(Examples(x[0], y), Examples(x[1], y), scoring=Scoring(cross_entropy))


def adaptation(**options: Any) -> GradientAdaptation:
    loop = InnerLoop(steps=2)
    return GradientAdaptation(**{"model": network(), "rule": SGD(lr=0.1), "loop": loop, **options})


def proto_maml() -> GradientAdaptation:
    return ProtoMAML(
        model=network(output_size=None), rule=SGD(lr=0.1), loop=InnerLoop(steps=2), training_output_size=3
    )


Case = tuple[Callable[[], GradientAdaptation], MetaGradient[Any]]
CASES: dict[str, Case] = {
    "maml": (adaptation, Exact()),
    "first order": (adaptation, FirstOrder()),
    "meta-sgd": (lambda: adaptation(rule=LearnedRates(lr=(0.05, 0.1))), Exact()),
    "meta-curvature": (lambda: adaptation(rule=MetaCurvature(lr=0.1)), Exact()),
    "adam": (lambda: adaptation(rule=Adam(lr=0.01)), Exact()),
    "lstm": (lambda: adaptation(rule=LSTM(hidden=3, scale=0.01)), Exact()),
    "head": (lambda: adaptation(adapts="head"), Exact()),
    "norms per step": (lambda: adaptation(per_step="norms"), Exact(objective="mean")),
    "one query at a time": (lambda: adaptation(transductive=False), Exact()),
    "imaml": (lambda: adaptation(proximal=2.0), Implicit(cg_steps=2)),
    "reptile": (adaptation, Reptile()),
    "proto-maml": (proto_maml, Exact()),
}


def meta_gradient(engine: Engine, case: Case) -> dict[str, Tensor]:
    learner, tasks = case[0]().double(), batch()
    executor = Executor(engine, learner)
    (step,) = meta_steps(case[1], learner, tasks, Progress(), executor)
    return {**step.gradients, **step.scores}


@pytest.mark.parametrize("name", CASES)
def test_every_way_has_the_same_meta_gradient(name: str) -> None:
    expected = meta_gradient(WAYS["plain"], CASES[name])
    assert expected
    for way in list(WAYS)[1:]:
        given = meta_gradient(WAYS[way], CASES[name])
        # autograd has a gradient of rounding errors for biases that a norm cancels; the kernels have none.
        unused = {n for n in expected.keys() - given.keys() if expected[n].abs().max() < 1e-12}
        assert given.keys() | unused == expected.keys()
        scale = max(each.abs().max().item() for each in expected.values())
        for entry, value in given.items():
            torch.testing.assert_close(value, expected[entry], rtol=1e-8, atol=1e-10 * scale)


EMBEDDING: dict[str, Callable[[], Learner[Any]]] = {
    "protonet": lambda: ProtoNet(model=network(output_size=None)),
    "transductive": lambda: ProtoNet(model=network(output_size=None), transductive=True),
    "r2d2": lambda: RidgeRegression(model=network(output_size=None)),
    "matchingnet": lambda: MatchingNet(model=network(output_size=None)),
    "frozen norms": lambda: ProtoNet(model=frozen_norms(network(output_size=None))),
}


def frozen_norms(model: Conv4) -> Conv4:
    for name, p in model.named_parameters():
        p.requires_grad_("norm" not in name)
    return model


def trained_once(engine: Engine, learner: Learner[Any]) -> dict[str, Tensor]:
    """The meta-gradient, the changes of running statistics, and the test's losses after these changes."""
    executor, tasks = Executor(engine, learner), batch()
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), executor)
    with torch.no_grad():
        for name, change in step.assignments.items():
            learner.get_buffer(name).add_(change)
    with learner.evaluating():
        chunks = executor.map(lambda part: list(learner.curve(tasks.part(part)))[-1]["loss"], len(tasks))
    return {**step.gradients, **step.assignments, "loss": torch.cat(chunks)}


@pytest.mark.parametrize("name", EMBEDDING)
def test_learners_that_embed_have_the_same_gradients_and_statistics(name: str) -> None:
    assert EMBEDDING[name]().has_kernels
    expected, *found = (
        trained_once(WAYS[way], EMBEDDING[name]().double()) for way in ("plain", "torch", "kernels")
    )
    for entry, value in expected.items():
        for given in found:
            # Biases that a norm cancels have a gradient of rounding errors, or none.
            torch.testing.assert_close(
                given.get(entry, torch.zeros_like(value)), value, rtol=1e-8, atol=1e-11
            )


def test_recomputed_steps_have_it_too() -> None:
    expected = meta_gradient(WAYS["plain"], CASES["maml"])
    given = meta_gradient(Engine(chunk=3, kernels=True, rematerialise=True), CASES["maml"])
    for name, value in given.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-8, atol=1e-12)


def test_results_have_the_same_bits_whichever_thread_computes_them() -> None:
    one, other = (
        meta_gradient(Engine(chunk=1, workers=workers, kernels=True), CASES["maml"]) for workers in (1, 3)
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_kernels_are_chosen_where_the_model_has_layers_for_them() -> None:
    def chosen(learner: GradientAdaptation, **settings: Any) -> bool:
        return with_kernels(EngineSettings(**settings), learner, CPU)

    assert chosen(adaptation())
    assert chosen(proto_maml())
    assert not chosen(adaptation(model=network(filters=12)))
    assert not chosen(adaptation(), kernels=False)
    assert not chosen(adaptation(), compile=True)  # the compiler sees torch's operations alone
    assert not chosen(adaptation(), plain=True)
    assert not with_kernels(EngineSettings(), adaptation(), torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"engine\.kernels=true: this model has no layers for them"):
        chosen(adaptation(model=Linear(input_shape=(1, 16, 16), output_size=3)), kernels=True)
    with pytest.raises(ConfigError, match=r"they are for a CPU: type engine\.kernels=auto"):
        with_kernels(EngineSettings(kernels=True), adaptation(), torch.device("cuda"))


def test_the_engine_of_a_run_says_what_it_uses() -> None:
    learner, tasks = adaptation().double(), batch()
    engine = choose(EngineSettings(chunk=2, workers=1), Exact(), learner, tasks)
    assert engine.kernels
    assert choose_for_evaluation(EngineSettings(chunk=2, workers=1), engine, learner, tasks).kernels
    plain = choose(EngineSettings(plain=True), Exact(), learner, tasks)
    assert (plain.plain, plain.kernels, plain.chunk) == (True, False, 1)
    assert choose_for_evaluation(EngineSettings(plain=True), plain, learner, tasks).chunk == 1


def test_a_run_that_cannot_have_its_kernels_goes_on(
    monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    monkeypatch.setattr("metarun.learners.gradient.batched.kernels._kernels", lambda: None)
    given = meta_gradient(Engine(chunk=3, kernels=True), CASES["maml"])
    assert all(
        torch.equal(value, given[name]) for name, value in meta_gradient(WAYS["torch"], CASES["maml"]).items()
    )
    assert any("engine.kernels: they cannot be compiled here" in line for line in logged)


def test_a_plain_run_has_the_results_of_a_fast_one(
    typed: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    words = [
        *("algo=metasgd", "data=sklearn", "data.name=digits", "data.way=2", "data.shot=2", "data.query=2"),
        *("model=conv4", "model.filters=16", "model.halvings=3", "dtype=float64", "train.meta_batch=3"),
        *("train.steps=3", "train.validate_every=2", "train.validation_tasks=5", "train.test_tasks=10"),
    ]
    found, engines = [], []
    for way in ("plain=true", "kernels=true", "kernels=false"):
        run = tmp_path / way.replace("=", "-")
        status, _, said = typed(*words, f"engine.{way}", f"hydra.run.dir={run}")
        assert status == 0, said
        found.append(json.loads((run / "results.json").read_text())["final"]["loss"]["mean"])
        engines.append(json.loads((run / "engine.json").read_text()))
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-8)
    assert [(engine["plain"], engine["kernels"]) for engine in engines] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    for way in ("compile=true", "chunk=4", "rematerialise=true", "kernels=true", "strategy=batched"):
        status, _, said = typed(*words, "engine.plain=true", f"engine.{way}")
        assert (status, said.count("\n")) == (2, 1)
        assert f"engine.plain=true computes without engine.{way.partition('=')[0]}" in said
