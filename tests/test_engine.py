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


def choose(chunk: str | int = "auto", threads: str | int = "auto", meta_batch: int = 10) -> engine.Engine:
    return engine.choose(chunk, threads, Exact(), *made(), meta_batch=meta_batch)


def test_a_number_is_that_number() -> None:
    assert choose(chunk=3, threads=5) == engine.Engine(3, 5)


def test_an_automatic_chunk_is_what_fits_the_budget(monkeypatch) -> None:
    one = engine.bytes_of_one_task(Exact(), *made())
    for budget, chunk in ((4 * one + one // 2, 4), (1, 1), (1000 * one, 256)):
        monkeypatch.setattr(engine, "_CPU_BYTES", budget)
        assert choose().chunk == chunk


def test_small_work_has_one_thread_and_large_work_all(monkeypatch) -> None:
    one = engine.bytes_of_one_task(Exact(), *made())
    monkeypatch.setattr(engine, "_THREADS", 7)
    monkeypatch.setattr(engine, "_SMALL_BYTES", 5 * one)
    assert choose(meta_batch=4).threads == 1
    assert choose(meta_batch=6).threads == 7
    assert choose(meta_batch=6, chunk=4).threads == 1


def test_the_threads_are_used() -> None:
    before = torch.get_num_threads()
    engine.Engine(1, 2).use()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


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
    engine.choose("auto", "auto", Exact(), learner, batch, meta_batch=25)
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), random)
