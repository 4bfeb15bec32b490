"""The compiled meta-gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metarun.compiled import Compiled
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, MetaGradient, Reptile
from metarun.models import MLP
from metarun.rules import SGD, MetaSGD, UpdateRule
from metarun.tasks import Sinusoid
from metarun.tasks.losses import mean_squared_error
from metarun.workers import Workers

BATCH = Sinusoid(shot=5, query=4, dtype=torch.float64).batch("train", 0, 5)


def made(rule: UpdateRule) -> GradientAdaptation:
    torch.manual_seed(0)
    model = MLP(input_shape=(1,), output_size=1, hidden=(8,))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    loss = mean_squared_error
    return GradientAdaptation(
        model=model, rule=rule, loop=InnerLoop(steps=2), loss=loss, metrics={"again": loss}
    ).double()


def gradients(learner: GradientAdaptation, metagradient: MetaGradient) -> list[torch.Tensor]:
    learner.zero_grad()
    scores = metagradient(learner, BATCH, 2, Workers(2))
    return [scores["loss"], scores["again"], *(p.grad.clone() for p in learner.parameters())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "plain"), [(lambda: MetaSGD(lr=0.02), Exact()), (lambda: SGD(lr=0.02), Reptile())]
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


def test_without_a_compiler_a_warning_says_so_and_the_run_goes_on(metarun, tmp_path: Path) -> None:
    (tmp_path / "no programs here").mkdir()
    done = metarun(
        *("engine.compile=true", "train.steps=2", "train.validation_tasks=8", "train.test_tasks=8"),
        PATH=str(tmp_path / "no programs here"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "nothing compiled before"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("engine.compile: going on without") == 1
