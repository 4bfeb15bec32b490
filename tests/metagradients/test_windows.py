"""The outer loop moves after every window: what it then follows is a plain loop's."""

from __future__ import annotations

import pytest
import torch
from linear_loop import STEPS, batch, learner, losses_of_windows
from torch import Tensor

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.learners import GradientAdaptation
from metarun.metagradients import EvolutionStrategies, MetaGradient, Progress, Truncated
from metarun.system.randomness import state

OUTER_RATE = 0.03
Meta = dict[str, Tensor]


def moved(
    made: GradientAdaptation,
    metagradient: MetaGradient,
    chunk: int = 3,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Meta]:
    """Descend by every move of a meta-step, and return the meta-parameters after each."""
    after = []
    executor = Executor(Engine(chunk=chunk, workers=workers), made)
    for step in meta_steps(metagradient, made, batch(), progress or Progress(), executor):
        assert step.scores["loss"].shape == (3,)
        step.fill(made)
        for p in made.parameters():
            if p.grad is not None:
                p.data -= OUTER_RATE * p.grad
        made.zero_grad()
        after.append({name: p.detach().clone() for name, p in made.named_parameters()})
    return after


def assert_close(found: list[Meta], expected: list[Meta]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name, p in other.items():
            torch.testing.assert_close(one[name], p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_truncated_moves_as_a_plain_loop(window: int) -> None:
    made = learner()
    thetas = [{name: p.detach().clone().requires_grad_() for name, p in made.named_parameters()}]
    for _ in range(STEPS // window):
        loss = losses_of_windows(thetas, window)[-1] / 3
        grads = torch.autograd.grad(loss, list(thetas[-1].values()), materialize_grads=True)
        thetas.append(
            {
                name: (p - OUTER_RATE * g).detach().requires_grad_()
                for (name, p), g in zip(thetas[-1].items(), grads, strict=True)
            }
        )
    found = moved(made, Truncated(window=window, update="window"))
    assert_close(found, thetas[1:])


@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("window", [1, 2])
def test_evolution_strategies_move_as_a_plain_loop(window: int, pairs: int) -> None:
    made, sigma = learner(), 0.1
    metagradient = EvolutionStrategies(sigma=sigma, pairs=pairs, window=window, update="window")
    generators = [
        torch.Generator().manual_seed(state(3, f"perturbations of pair {n}", 5)) for n in range(pairs)
    ]
    thetas = [{name: p.detach().clone() for name, p in made.named_parameters()}]
    xi = [{name: torch.zeros_like(p) for name, p in thetas[0].items()} for _ in range(pairs)]
    ways: list[dict[int, list[Meta]]] = [{1: [], -1: []} for _ in range(pairs)]
    for _ in range(STEPS // window):
        gradient = {name: torch.zeros_like(p) for name, p in thetas[0].items()}
        for generator, own_xi, way in zip(generators, xi, ways, strict=True):
            noise = {
                name: torch.randn(p.shape, generator=generator, dtype=p.dtype)
                for name, p in thetas[-1].items()
            }
            for sign in (1, -1):
                way[sign].append({name: p + sign * sigma * noise[name] for name, p in thetas[-1].items()})
            up, down = (losses_of_windows(way[sign], window)[-1] / 3 for sign in (1, -1))
            for name, each in own_xi.items():
                each.add_(noise[name])
                gradient[name] += each * (up - down) / (2 * sigma * pairs)
        thetas.append({name: p - OUTER_RATE * gradient[name] for name, p in thetas[-1].items()})
    assert_close(moved(made, metagradient, progress=Progress(5, 10, 3)), thetas[1:])


@pytest.mark.parametrize("kind", [Truncated, EvolutionStrategies])
def test_moves_are_the_same_in_any_chunks_and_by_any_workers(kind: type[Truncated]) -> None:
    whole = moved(learner(), kind(window=2, update="window"))
    for chunk, workers in ((1, 1), (2, 1), (2, 2)):
        assert_close(moved(learner(), kind(window=2, update="window"), chunk, workers), whole)


@pytest.mark.parametrize("kind", [Truncated, EvolutionStrategies])
def test_after_the_horizon_there_is_one_move_by_the_sum(kind: type[Truncated]) -> None:
    made = learner()
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    gradients = kind(window=2).gradients(made, batch(), Progress(), 1 / 3).gradients
    expected = {name: p - OUTER_RATE * gradients[name] for name, p in before.items()}
    assert_close(moved(made, kind(window=2, update="horizon")), [expected])


def test_windows_without_a_part_in_the_objective_do_not_move() -> None:
    assert len(moved(learner(), Truncated(window=1, update="window", objective="final"))) == 1
    assert len(moved(learner(), EvolutionStrategies(window=1, update="window", objective="final"))) == 1
