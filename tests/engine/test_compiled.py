"""The compiled meta-gradient."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_loop import fill

from metarun.engine.compiled import Compiled
from metarun.engine.settings import Engine
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, MetaGradient, Progress, Reptile
from metarun.models import MLP
from metarun.rules import SGD, LearnedRates, UpdateRule
from metarun.tasks import Metric, Scoring, Sinusoid
from metarun.tasks.metrics import mean_squared_error

BATCH = replace(
    Sinusoid(shot=5, query=4, dtype=torch.float64).batch("train", 0, 5),
    scoring=Scoring(mean_squared_error, (Metric(name="again", compute=mean_squared_error),)),
)


def made(rule: UpdateRule) -> GradientAdaptation:
    torch.manual_seed(0)
    model = MLP(input_shape=(1,), output_size=1, hidden=(8,))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return GradientAdaptation(model=model, rule=rule, loop=InnerLoop(steps=2)).double()


def gradients(learner: GradientAdaptation, metagradient: MetaGradient) -> list[torch.Tensor]:
    learner.zero_grad()
    scores = fill(learner, metagradient, BATCH, Engine(chunk=2, workers=2))
    return [
        scores["loss"],
        scores["again"],
        *(p.grad.clone() for p in learner.parameters() if p.grad is not None),
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "plain"), [(lambda: LearnedRates(lr=0.02), Exact()), (lambda: SGD(lr=0.02), Reptile())]
)
def test_equals_the_plain_one_also_after_the_parameters_moved(rule, plain: MetaGradient) -> None:
    learner, compiled = made(rule()), Compiled(plain)
    for _ in range(2):
        torch.testing.assert_close(
            gradients(learner, compiled), gradients(learner, plain), rtol=1e-9, atol=1e-12
        )
        assert sorted(compiled._graphs) == [1, 2]  # five tasks in chunks of two
        with torch.no_grad():
            for p in learner.parameters():
                p.mul_(1.1).add_(0.01)


@pytest.mark.slow
def test_a_graph_serves_only_the_weight_it_was_made_for() -> None:
    learner, compiled = made(SGD(lr=0.02)), Compiled(Exact())
    gradients(learner, compiled)
    few = BATCH.part(slice(2))
    for weight in (1 / 5, 1 / 2):
        found, expected = (
            each.gradients(learner, few, Progress(), weight).gradients for each in (compiled, Exact())
        )
        torch.testing.assert_close(found, expected)


class Vmapped(MLP):
    """No mere sequence of layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Branching(SGD):
    """A rule that looks at a value."""

    def update(self, params, grads, state, step):
        moved = super().update(params, grads, state, step)
        return moved if max(g.max() for g in grads.values()) > 0 else (params, state)


@pytest.mark.slow
def test_any_model_and_only_what_is_trained() -> None:
    plain = made(SGD(lr=0.02))
    learner = GradientAdaptation(
        model=Vmapped(input_shape=(1,), output_size=1, hidden=(8,)),
        rule=plain.rule,
        loop=plain.loop,
        adapts="head",
    ).double()
    for p in learner.model.body.parameters():
        p.requires_grad_(False)
    compiled = Compiled(Exact())
    found, expected = gradients(learner, compiled), gradients(learner, Exact())
    assert not compiled.gave_up
    assert [p.grad is None for p in learner.model.parameters()] == [True, True, False, False]
    torch.testing.assert_close(found, expected)


def test_what_cannot_be_traced_goes_on_without(caplog: pytest.LogCaptureFixture) -> None:
    learner, compiled = made(Branching(lr=0.02)), Compiled(Exact())
    torch.testing.assert_close(gradients(learner, compiled), gradients(learner, Exact()))
    assert compiled.gave_up


def test_without_a_compiler_a_warning_says_so_and_the_run_goes_on(metarun, tmp_path: Path) -> None:
    (tmp_path / "no programs here").mkdir()
    done = metarun(
        *("engine.compile=true", "train.steps=2", "train.validation_tasks=8", "train.test_tasks=8"),
        PATH=str(tmp_path / "no programs here"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "nothing compiled before"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("engine.compile: continuing uncompiled") == 1
    (written,) = tmp_path.glob("outputs/*/*/engine.json")
    assert json.loads(written.read_text())["compile"] is False
