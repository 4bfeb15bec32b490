"""A training that is slower than what was measured is measured again; no bit of it changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from metarun.engine import watch
from metarun.engine.executor import Executor, split_into_chunks
from metarun.engine.measuring import Timing
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.engine.watch import Watch, expected_seconds, with_the_same_bits
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, Progress
from metarun.models import MLP
from metarun.rules import SGD
from metarun.tasks import Sinusoid


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_THREADS", 4)


def test_one_worker_one_per_core_and_the_present_ones_are_considered_where_chunks_stay_the_same() -> None:
    def workers(chunk: int, of: int, tasks: int, **more: Any) -> list[int]:
        engine = Engine(chunk=chunk, workers=of, **{"keep_memory": True, **more})
        candidates = with_the_same_bits(engine, tasks)
        chunks = split_into_chunks(tasks, chunk, of)
        assert all(split_into_chunks(tasks, each.chunk, each.workers) == chunks for each in candidates)
        return [each.workers for each in candidates]

    assert workers(8, 1, 32) == [4, 1]
    assert workers(4, 3, 32) == [4, 3, 1]
    assert workers(16, 2, 32) == [2, 1]
    assert workers(32, 1, 32) == [1]
    assert workers(8, 1, 32, keep_memory=False) == [1]  # small work
    assert workers(8, 1, 32, threads=4) == [1]


def test_a_meta_step_is_expected_to_take_as_long_as_its_rounds() -> None:
    # 20 tasks one at a time by 16 workers: two rounds, of which the first was measured, 16 tasks in 0.16 s.
    assert expected_seconds(Engine(chunk=1, workers=16, seconds_per_task=0.01), 20) == pytest.approx(0.32)
    assert expected_seconds(Engine(chunk=8, workers=1, seconds_per_task=0.01), 32) == pytest.approx(0.32)


def test_the_bits_are_the_same_with_any_of_them() -> None:
    tasks = Sinusoid(shot=5, query=5).batch("train", 0, 8)
    torch.manual_seed(0)
    learner = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1), rule=SGD(lr=0.1), loop=InnerLoop(steps=2)
    )
    steps = [
        next(meta_steps(Exact(), learner, tasks, Progress(), Executor(engine, learner)))
        for engine in with_the_same_bits(Engine(chunk=2, workers=1, keep_memory=True), 8)
    ]
    assert len(steps) == 2
    for step in steps[1:]:
        assert all(torch.equal(step.gradients[name], g) for name, g in steps[0].gradients.items())


@pytest.mark.parametrize("is_open", [True, False])
def test_it_measures_again_after_many_slow_steps_and_then_leaves_it_for_a_while(
    is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = Sinusoid(shot=1, query=1).batch("train", 0, 8)
    asked: list[list[int]] = []

    def measured(_learner, _tasks, _compute, engines: list[Engine]) -> dict[Engine, Timing]:
        asked.append([each.workers for each in engines])
        return {each: Timing((0.1 / each.workers,)) for each in engines}

    monkeypatch.setattr(watch, "measure", measured)
    engine = Engine(chunk=2, workers=1, keep_memory=True, seconds_per_task=0.1)
    looker = Watch(engine, 8, is_open=is_open)
    assert not any(looker.notes(0.9) for _ in range(100))  # a step of 8 tasks was to take 0.8 s
    slow = [looker.notes(1.3) for _ in range(20)]
    assert any(slow) == is_open
    if not is_open:
        return
    assert slow.index(True) == 10  # as soon as most of the last twenty are slow
    chosen = looker.measure(None, tasks, lambda part: part)
    assert chosen is not None
    assert (chosen.workers, chosen.chunk) == (4, 2)
    assert asked == [[4, 1]]
    assert not any(looker.notes(9.0) for _ in range(999))
    assert looker.notes(9.0)


def test_without_a_measurement_or_a_choice_nothing_is_measured() -> None:
    small, one_chunk = Engine(chunk=2, seconds_per_task=0.1), Engine(chunk=8, seconds_per_task=0.1)
    for engine in (Engine(chunk=2, keep_memory=True), small, one_chunk):
        looker = Watch(engine, 8, is_open=True)
        assert not any(looker.notes(100.0) for _ in range(50))


def test_what_would_not_fit_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = Sinusoid(shot=1, query=1).batch("train", 0, 8)
    monkeypatch.setattr(watch, "CPU_BYTES", 7)
    monkeypatch.setattr(watch, "bytes_kept", lambda *_: 1)
    looker = Watch(Engine(chunk=2, workers=1, keep_memory=True, seconds_per_task=0.1), 8, is_open=True)
    assert [looker.notes(9.0) for _ in range(20)][-1]
    assert looker.measure(None, tasks, lambda part: part) is None  # four workers would keep 8 bytes
