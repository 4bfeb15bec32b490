"""A rematerialised inner loop: the same meta-gradient, in memory that does not grow with the steps."""

from __future__ import annotations

import ctypes
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarun.learners import GradientAdaptation, InnerLoop
from metarun.learners.gradient.rematerialise import rematerialised
from metarun.metagradients import Exact, Progress
from metarun.models import MLP
from metarun.rules import LSTM, SGD, Adam, Hypernet, LearnedRates, UpdateRule
from metarun.tasks import Sinusoid


def learner(
    rule: UpdateRule, steps: int, adapts: str = "all", proximal: float = 0.0, **loop: int
) -> GradientAdaptation:
    torch.manual_seed(0)
    model = MLP(input_shape=(1,), output_size=1, hidden=(8, 8))
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return GradientAdaptation(
        model=model,
        rule=rule,
        loop=InnerLoop(steps=steps, **loop),
        adapts=adapts,
        proximal=proximal,
    ).double()


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 6, 17, 40])
@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (lambda: SGD(lr=0.02), {}),
        (lambda: SGD(lr=0.02), {"adapts": "head"}),
        (lambda: LearnedRates(lr=0.02), {"adapts": "body", "batch": 3}),
        (lambda: Adam(lr=0.01), {}),
        (lambda: LSTM(hidden=3, scale=0.01), {}),
        (lambda: Hypernet(lr=0.02, momentum=0.5, input_shape=(1,), output_size=1), {}),
        (lambda: SGD(lr=0.02), {"proximal": 0.7}),
    ],
)
def test_the_meta_gradient_is_the_same(rule, options: dict, steps: int) -> None:
    made = learner(rule(), steps, **options)
    batch = Sinusoid(shot=5, query=4, dtype=torch.float64).batch("train", 0, 3)
    expected = Exact().gradients(made, batch, Progress(), 0.5)
    made.rematerialise = True
    found = Exact().gradients(made, batch, Progress(), 0.5)
    torch.testing.assert_close(found.scores["loss"], expected.scores["loss"], rtol=1e-12, atol=0)
    assert found.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("steps", "most"), [(5, 1), (15, 2), (35, 3), (70, 4)])
def test_steps_are_repeated_as_seldom_as_four_kept_states_allow(steps: int, most: int) -> None:
    """C(4 + r, 4) steps need r passes over each at most, besides the first one."""
    assert math.comb(4 + most, 4) == steps
    passes = [0] * steps
    kept = [0]

    def step(state: tuple[torch.Tensor, ...], index: int, differentiable: bool) -> tuple[torch.Tensor, ...]:
        kept[0] += 1
        if not differentiable:
            passes[index] += 1
        return (state[0] * 1.5,)

    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    (after,) = rematerialised(step, [x], [], steps)
    passes = [0] * steps
    after.backward()
    assert x.grad.item() == pytest.approx(1.5**steps)
    assert max(passes) == most


def test_derivatives_of_the_derivatives_are_refused_and_not_wrong() -> None:
    x = torch.ones((), dtype=torch.float64, requires_grad=True)
    (after,) = rematerialised(lambda state, *_: (state[0] ** 2,), [x], [], 3)
    with pytest.raises(NotImplementedError):
        torch.autograd.grad(after, x, create_graph=True)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33 or later")
def test_memory_does_not_grow_with_the_steps() -> None:
    program = Path(__file__).parents[2] / "heap.py"
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout)
    assert peaks["rematerialised"]["50"] < 1.3 * peaks["rematerialised"]["5"]
    assert peaks["kept"]["50"] > 5 * peaks["kept"]["5"]
