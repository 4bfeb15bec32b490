"""ES and PES: unbiased where theory says so, the same for any chunks, and different at every step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from linear_loop import STEPS, batch, learner, losses_of_windows
from plain_loop import by_engine, worst

from metarun.learners import GradientAdaptation
from metarun.metagradients import EvolutionStrategies, Exact, Progress
from metarun.system.randomness import state

PAIRS = 500


def estimates(made: GradientAdaptation, window: int | None, objective: str, count: int) -> torch.Tensor:
    """One estimate a row, each from a single antithetic pair: [count, meta-parameters]."""
    metagradient = EvolutionStrategies(sigma=0.01, pairs=1, window=window, objective=objective)
    rows = []
    for step in range(count):
        found = metagradient.gradients(made, batch(), Progress(step, count, 0), 1 / 3).gradients
        rows.append(torch.cat([g.flatten() for g in found.values()]))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("objective", ["mean", "final"])
def test_agrees_in_expectation_with_the_exact_gradient(window: int | None, objective: str) -> None:
    """With σ = 0.01 the blur changes it by σ² times a third derivative: far less than the interval."""
    made = learner()
    exact = by_engine(made, Exact(objective=objective), batch(), chunk=3)
    expected = torch.cat([g.flatten() for g in exact.values()])
    rows = estimates(made, window, objective, PAIRS)
    error = rows.std(0) / math.sqrt(PAIRS)
    assert ((rows.mean(0) - expected).abs() < 4 * error).all()
    # The interval is narrow enough to tell the gradient from nothing.
    assert (4 * error < expected.abs().max()).all()


def test_a_window_as_long_as_the_loop_is_plain_evolution_strategies() -> None:
    made = learner()
    assert torch.equal(estimates(made, None, "mean", 5), estimates(made, STEPS, "mean", 5))
    assert not torch.equal(estimates(made, 2, "mean", 5), estimates(made, STEPS, "mean", 5))


@pytest.mark.parametrize("pairs", [1, 3])
def test_estimates_by_hand(pairs: int) -> None:
    """The mean over pairs of Σ over windows of ξ (L₊ − L₋) / 2σ, with the perturbations drawn again."""
    made, sigma, window = learner(), 0.1, 2
    metagradient = EvolutionStrategies(sigma=sigma, pairs=pairs, window=window, objective="mean")
    found = metagradient.gradients(made, batch(), Progress(5, 10, 3), 1.0).gradients
    theta = {name: p.detach().clone() for name, p in made.named_parameters()}
    expected = {name: torch.zeros_like(p) for name, p in theta.items()}
    for pair in range(pairs):
        generator = torch.Generator().manual_seed(state(3, f"perturbations of pair {pair}", 5))
        noises = [
            {name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in theta.items()}
            for _ in range(STEPS // window)
        ]
        moved = {
            sign: [{name: p + sign * sigma * noise[name] for name, p in theta.items()} for noise in noises]
            for sign in (1, -1)
        }
        ups, downs = (losses_of_windows(moved[sign], window) for sign in (1, -1))
        xi = {name: torch.zeros_like(p) for name, p in theta.items()}
        for noise, up, down in zip(noises, ups, downs, strict=True):
            for name, each in xi.items():
                each.add_(noise[name])
                expected[name] += each * (up - down) / (2 * sigma * pairs)
    assert worst(found, expected) < 1e-10


def test_every_task_has_its_scores() -> None:
    made = learner()
    step = EvolutionStrategies(pairs=3, window=2).gradients(made, batch(), Progress(), 1.0)
    shapes = {name: g.shape for name, g in step.gradients.items()}
    assert shapes == {n: p.shape for n, p in made.named_parameters()}
    assert step.scores["loss"].shape == (3,)


def options() -> dict[str, Any]:
    return {"pairs": 2, "window": 2}


def test_is_the_same_for_any_chunk_size_and_another_at_the_next_step() -> None:
    made = learner()
    metagradient = EvolutionStrategies(**options())

    def found(chunk: int = 3, step: int = 3, seed: int = 7) -> dict[str, torch.Tensor]:
        return by_engine(made, metagradient, batch(), chunk, Progress(step, 10, seed))

    whole = found()
    assert worst(found(chunk=1), whole) < 1e-10
    assert worst(found(step=4), whole) > 1e-3
    assert worst(found(seed=8), whole) > 1e-3
    again = found()
    assert all(torch.equal(again[name], g) for name, g in whole.items())


def test_the_learner_is_left_as_it_is() -> None:
    made = learner()
    before = {name: p.clone() for name, p in made.named_parameters()}
    by_engine(made, EvolutionStrategies(**options()), batch(), chunk=3)
    assert all(torch.equal(before[name], p) for name, p in made.named_parameters())
