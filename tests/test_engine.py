"""The automatic chunk size."""

from __future__ import annotations

import platform

import torch

from metarun import engine
from metarun.allocator import keep_large_blocks
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient, Reptile
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


def choose(meta_batch: int = 10, **settings: str | int) -> engine.Engine:
    return engine.choose(engine.EngineSettings(**settings), Exact(), *made(), meta_batch=meta_batch)


def test_a_number_is_that_number() -> None:
    chosen = choose(chunk=3, threads=5, workers=4)
    assert (chosen.chunk, chosen.threads, chosen.workers) == (3, 5, 4)


def test_an_automatic_chunk_is_what_fits_the_budget(monkeypatch) -> None:
    one = engine.bytes_of_one_task(Exact(), *made())
    for budget, chunk in ((4 * one + one // 2, 4), (1, 1), (1000 * one, 256)):
        monkeypatch.setattr(engine, "_CPU_BYTES", budget)
        assert choose().chunk == chunk


def test_small_work_has_one_thread_and_large_work_all_cores(monkeypatch) -> None:
    one = engine.bytes_of_one_task(Exact(), *made())
    monkeypatch.setattr(engine, "_THREADS", 7)
    monkeypatch.setattr(engine, "_SMALL_BYTES", 5 * one)

    def chosen(**settings: int) -> tuple[int, int, bool]:
        made = choose(**settings)
        return made.workers, made.threads, made.keep_memory

    assert chosen(meta_batch=4) == (1, 1, False)
    assert chosen(meta_batch=6) == (6, 1, True)  # no more workers than tasks
    assert chosen(meta_batch=60) == (7, 1, True)
    assert chosen(meta_batch=60, workers=1) == (1, 7, True)
    assert chosen(meta_batch=60, workers=2, threads=3) == (2, 3, True)


def test_the_threads_are_used() -> None:
    before = torch.get_num_threads()
    assert engine.Engine(1, 2, 3, False).use().count == 3
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_memory_is_kept_where_the_c_library_is_glibc() -> None:
    on_glibc = platform.libc_ver()[0] == "glibc"
    assert keep_large_blocks() == on_glibc


def test_bytes_grow_with_what_is_kept() -> None:
    small = engine.bytes_of_one_task(Exact(), *made())
    assert small > 3 * 40 * 41 * 4  # at least the parameters and activations of the step
    assert engine.bytes_of_one_task(Exact(), *made(hidden=400)) > 10 * small
    assert engine.bytes_of_one_task(Exact(), *made(steps=5)) > 2 * small
    assert engine.bytes_of_one_task(Reptile(), *made(steps=5)) < engine.bytes_of_one_task(
        Exact(), *made(steps=5)
    )


def test_bytes_are_of_what_is_kept_at_once() -> None:
    def measured(metagradient: MetaGradient, steps: int) -> int:
        return engine.bytes_of_one_task(metagradient, *made(steps=steps))

    # Reptile forgets a step before the next; the exact meta-gradient keeps them all.
    assert measured(Reptile(), 20) == measured(Reptile(), 2)
    assert measured(Exact(), 20) > 5 * measured(Exact(), 2)
    assert measured(FirstOrder(), 20) < measured(Exact(), 2)
    assert len({measured(FirstOrder(), 5) for _ in range(5)}) == 1


def test_measuring_leaves_no_trace() -> None:
    learner, batch = made()
    state, random = {k: v.clone() for k, v in learner.state_dict().items()}, torch.get_rng_state()
    engine.choose(engine.EngineSettings(), Exact(), learner, batch, meta_batch=25)
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), random)
