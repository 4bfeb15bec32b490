"""The automatic chunk size."""

from __future__ import annotations

import torch

from metarun import engine
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, Reptile
from metarun.models import MLP
from metarun.rules import SGD
from metarun.tasks import Sinusoid, TaskBatch


def made(hidden: int = 40, steps: int = 1, tasks: int = 1) -> tuple[GradientAdaptation, TaskBatch]:
    source = Sinusoid(shot=10, query=10)
    learner = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1, hidden=(hidden, hidden)),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=steps),
        loss=source.loss,
        metrics={},
    )
    return learner, source.batch("train", 0, tasks)


def test_a_number_is_that_number() -> None:
    assert engine.chunk_size(3, Exact(), *made()) == 3


def test_auto_takes_what_fits_the_budget(monkeypatch) -> None:
    one = engine.bytes_of_one_task(Exact(), *made())
    for budget, chunk in ((4 * one + one // 2, 4), (1, 1), (1000 * one, 256)):
        monkeypatch.setattr(engine, "_CPU_BYTES", budget)
        assert engine.chunk_size("auto", Exact(), *made()) == chunk


def test_bytes_grow_with_what_is_kept() -> None:
    small = engine.bytes_of_one_task(Exact(), *made())
    assert small > 3 * 40 * 41 * 4  # at least the parameters and activations of the step
    assert engine.bytes_of_one_task(Exact(), *made(hidden=400)) > 10 * small
    assert engine.bytes_of_one_task(Exact(), *made(steps=5)) > 2 * small
    assert engine.bytes_of_one_task(Reptile(), *made(steps=5)) < engine.bytes_of_one_task(
        Exact(), *made(steps=5)
    )


def test_measuring_leaves_no_trace() -> None:
    learner, batch = made()
    state, random = {k: v.clone() for k, v in learner.state_dict().items()}, torch.get_rng_state()
    engine.chunk_size("auto", Exact(), learner, batch)
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), random)
