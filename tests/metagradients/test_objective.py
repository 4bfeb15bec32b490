"""Weights over inner steps, windows, and the order of derivatives: against plain loops in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_loop import TASKS, by_engine, gradients, network, task_batch, worst
from torch import Tensor
from torch.func import functional_call

from metarun.errors import ConfigError, with_keys
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient, Progress, Truncated
from metarun.rules import LSTM, LearnedRates
from metarun.tasks import Examples, Tasks

STEPS = 5


def learner(rule: str = "metasgd", **options: Any) -> GradientAdaptation:
    made = GradientAdaptation(
        model=network("mlp"),
        rule=LearnedRates(lr=0.05) if rule == "metasgd" else LSTM(hidden=4),
        loop=InnerLoop(steps=STEPS),
        **options,
    )
    return made.double()


def plain(
    made: GradientAdaptation,
    batch: Tasks,
    weights: list[float],
    *,
    exact: bool,
    window: int | None = None,
) -> dict[str, Tensor]:
    """One task after another: Σ weights[k] · query loss after step k, cut after every `window` steps."""
    made.zero_grad()
    for t in range(TASKS):
        params = {name: p[None] for name, p in made.model.named_parameters()}
        state = made.rule.init(params)
        total = torch.zeros((), dtype=torch.float64)
        for step in range(STEPS):
            if window and step and step % window == 0:
                if total.requires_grad:
                    total.backward()
                total = torch.zeros((), dtype=torch.float64)
                params = {name: p.detach().requires_grad_() for name, p in params.items()}
                state = torch.utils._pytree.tree_map(lambda each: each.detach(), state)
            found = torch.autograd.grad(
                loss(made, params, batch.support, t), list(params.values()), create_graph=exact
            )
            params, state = made.rule.update(params, dict(zip(params, found, strict=True)), state, step)
            total = total + weights[step] * loss(made, params, batch.query, t) / TASKS
        total.backward()
    return gradients(made)


def loss(made: GradientAdaptation, params: dict[str, Tensor], examples: Examples, t: int) -> Tensor:
    own = {name: p[0] for name, p in params.items()}
    return (functional_call(made.model, own, (examples.x[t],)) - examples.y[t]).square().mean()


MEAN, FINAL = [0.2] * 5, [0, 0, 0, 0, 1.0]
CASES = {  # at meta-step n of 100
    "final": (Exact(), 0, FINAL, True),
    "mean": (Exact(objective="mean"), 0, MEAN, True),
    "mean-first-order": (FirstOrder(objective="mean"), 0, MEAN, False),
    "annealed-start": (Exact(objective="annealed", anneal_for=0.1), 0, MEAN, True),
    "annealed-half": (Exact(objective="annealed", anneal_for=0.1), 5, [0.1] * 4 + [0.6], True),
    "annealed-over": (Exact(objective="annealed", anneal_for=0.1), 10, FINAL, True),
    "order-before": (Exact(first_order_for=0.5), 49, FINAL, False),
    "order-after": (Exact(first_order_for=0.5), 50, FINAL, True),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rule", ["metasgd", "lstm"])
def test_weighs_steps_as_a_plain_loop(name: str, rule: str) -> None:
    metagradient, step, weights, exact = CASES[name]
    made, batch = learner(rule), task_batch("mlp")
    expected = plain(made, batch, weights, exact=exact)
    found = by_engine(made, metagradient, batch, 2, Progress(step, 100))
    assert worst(found, expected) < 1e-10


@pytest.mark.parametrize("window", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("derivatives", ["exact", "first_order"])
@pytest.mark.parametrize("objective", ["mean", "final"])
def test_truncation_is_a_plain_loops(window: int, derivatives: str, objective: str) -> None:
    made, batch = learner("lstm"), task_batch("mlp")
    weights = MEAN if objective == "mean" else FINAL
    expected = plain(made, batch, weights, exact=derivatives == "exact", window=window)
    truncated = Truncated(window=window, derivatives=derivatives, objective=objective)
    found = by_engine(made, truncated, batch, chunk=2)
    expected = {name: g for name, g in expected.items() if name in found or g.abs().max() > 0}
    assert worst(found, expected) < 1e-10


def test_weights_are_the_same_sum_at_every_step_of_the_annealing() -> None:
    metagradient = Exact(objective="annealed", anneal_for=0.3)
    for step in range(0, 100, 7):
        weights = metagradient.weights(STEPS, Progress(step, 100))
        assert len(weights) == STEPS + 1
        assert weights[0] == 0
        assert sum(weights) == pytest.approx(1)
        assert weights[1:-1] == [weights[1]] * (STEPS - 1)
        assert weights[-1] >= weights[1] - 1e-12


def test_without_inner_steps_the_initialisation_is_scored() -> None:
    made, batch = learner(), task_batch("mlp")
    made.loop = InnerLoop(steps=0)
    for metagradient in (Exact(), Exact(objective="mean"), Truncated()):
        found = by_engine(made, metagradient, batch, chunk=3)
        expected = torch.autograd.grad(
            sum(
                loss(made, {n: p[None] for n, p in made.model.named_parameters()}, batch.query, t)
                for t in range(3)
            )
            / TASKS,
            list(made.model.parameters()),
        )
        for name, g in zip(dict(made.model.named_parameters()), expected, strict=True):
            torch.testing.assert_close(found[f"model.{name}"], g)


def test_an_annealing_over_nothing_is_an_error() -> None:
    mistakes = (
        ({"objective": "annealed"}, r"0\.1, or another"),
        ({"objective": "mean", "anneal_for": 0.1}, "0$"),
    )
    for options, wanted in mistakes:
        with (
            pytest.raises(ConfigError, match=rf"do not agree: type metagradient\.anneal_for={wanted}"),
            with_keys(),
        ):
            Exact(**options)


def test_what_takes_most_is_measured() -> None:
    """Before a run an engine is chosen for the costliest of its steps, which may come later."""
    metagradient = Exact(objective="annealed", anneal_for=0.8, first_order_for=0.4)
    made, batch = learner(), task_batch("mlp")
    costliest = Progress(metagradient.costliest(100), 100)
    expected = plain(made, batch, [0.1] * 4 + [0.6], exact=True)
    assert worst(by_engine(made, metagradient, batch, 3, costliest), expected) < 1e-10
    expected = plain(made, batch, [0.15] * 4 + [0.4], exact=False)
    assert worst(by_engine(made, metagradient, batch, 3, Progress(20, 100)), expected) < 1e-10


@pytest.mark.parametrize(("share", "step"), [(0.0, 0), (0.5, 50), (0.985, 99), (0.995, 99), (1.0, 99)])
def test_the_costliest_step_is_one_of_the_runs_own(share: float, step: int) -> None:
    assert Exact(first_order_for=share).costliest(100) == step
    assert Exact(objective="annealed", anneal_for=0.1).costliest(100) == 0


@pytest.mark.parametrize(
    ("metagradient", "allowed"),
    [
        (Exact(), True),
        (Exact(first_order_for=0.5), True),
        (Exact(objective="mean"), False),
        (FirstOrder(), False),
        (Truncated(), False),
    ],
)
def test_only_the_last_step_of_an_exact_one_can_be_rematerialised(
    metagradient: MetaGradient, allowed: bool
) -> None:
    assert metagradient.rematerialises is allowed
