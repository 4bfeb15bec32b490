"""The start-up choice of an engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metarun import choice
from metarun.engine import Engine, EngineSettings
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.ledger import bytes_kept
from metarun.metagradients import Exact
from metarun.models import MLP
from metarun.rules import SGD
from metarun.tasks import Sinusoid, TaskBatch


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    return tmp_path


def made(tasks: int = 10) -> tuple[GradientAdaptation, TaskBatch]:
    source = Sinusoid(shot=10, query=10)
    learner = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=1),
        loss=source.loss,
        metrics={},
    )
    return learner, source.batch("train", 0, tasks)


def choose(tasks: int = 10, **settings: str | int) -> Engine:
    return choice.choose(EngineSettings(**settings), Exact(), *made(tasks))


def pretend(monkeypatch: pytest.MonkeyPatch, milliseconds: dict[int, float]) -> list[list[int]]:
    """Let chunks take so long a task, and return the lists of sizes that were measured."""
    asked: list[list[int]] = []

    def seconds(engine: Engine, metagradient, learner, batch, sizes: list[int]) -> dict[int, float]:
        asked.append(sizes)
        return {size: milliseconds[size] / 1e3 for size in sizes}

    monkeypatch.setattr(choice, "_seconds_per_task", seconds)
    return asked


def test_a_number_is_that_number_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {})
    chosen = choose(chunk=3, threads=5, workers=4)
    assert (chosen.chunk, chosen.threads, chosen.workers) == (3, 5, 4)
    assert choose(strategy="per_task").chunk == 1
    assert not asked


def test_the_fastest_chunk_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {1: 3.0, 2: 5.0, 4: 2.0, 8: 4.0, 10: 4.0})
    assert choose().chunk == 4
    assert asked == [[1, 2, 4, 8, 10]]


def test_batched_leaves_single_tasks_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, {1: 0.1, 2: 5.0, 4: 2.0, 8: 4.0, 10: 4.0})
    assert choose(strategy="batched").chunk == 4
    assert asked == [[2, 4, 8, 10]]
    assert choose(tasks=1, strategy="batched").chunk == 2


def test_a_choice_is_remembered_for_this_work_alone(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    asked = pretend(monkeypatch, {1: 3.0, 2: 1.0, 4: 2.0, 7: 3.0, 8: 4.0, 10: 4.0})
    assert [choose().chunk, choose().chunk] == [2, 2]
    assert len(asked) == 1
    (kept,) = (empty_cache / "engine").glob("*.json")
    content = json.loads(kept.read_text())
    assert content["chunk"] == 2
    assert content["milliseconds_per_task"]["4"] == 2.0
    choose(tasks=7)
    choose(rematerialise=True)
    assert len(asked) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"chunk": "8"}', '{"chunk": 0}', "\x00\xff"])
def test_a_damaged_memory_is_measured_anew(
    content: str, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    pretend(monkeypatch, {1: 3.0, 2: 1.0, 4: 2.0, 8: 4.0, 10: 4.0})
    choose()
    (kept,) = (empty_cache / "engine").glob("*.json")
    kept.write_text(content, encoding="latin-1")
    assert choose().chunk == 2
    assert json.loads(kept.read_text())["chunk"] == 2


def test_a_cache_that_cannot_be_written_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = pretend(monkeypatch, {1: 3.0, 2: 1.0, 4: 2.0, 8: 4.0, 10: 4.0})
    (empty_cache / "engine").write_text("a file where the folder should be")
    assert choose().chunk == 2
    assert len(asked) == 1
    assert "cannot be kept" in caplog.text


def test_chunks_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bytes_kept(Exact(), *made(1))
    pretend(monkeypatch, {1: 4.0, 2: 3.0, 4: 2.0, 8: 1.0, 10: 0.5})
    for budget, largest in ((4 * one + one // 2, 4), (1, 1), (1000 * one, 10)):
        monkeypatch.setattr(choice, "_CPU_BYTES", budget)
        assert choose().chunk == largest


def test_small_work_has_one_thread_and_large_work_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bytes_kept(Exact(), *made(1))
    monkeypatch.setattr(choice, "_THREADS", 7)
    monkeypatch.setattr(choice, "_SMALL_BYTES", 5 * one)

    def chosen(tasks: int, **settings: int) -> tuple[int, int, bool]:
        made = choose(tasks, chunk=1, **settings)
        return made.workers, made.threads, made.keep_memory

    assert chosen(4) == (1, 1, False)
    assert chosen(6) == (6, 1, True)  # no more workers than tasks
    assert chosen(60) == (7, 1, True)
    assert chosen(60, workers=1) == (1, 7, True)
    assert chosen(60, workers=2, threads=3) == (2, 3, True)


def test_measuring_is_real_and_leaves_no_trace() -> None:
    learner, batch = made()
    state, random = {k: v.clone() for k, v in learner.state_dict().items()}, torch.get_rng_state()
    chosen = choice.choose(EngineSettings(), Exact(), learner, batch)
    assert chosen.chunk > 1  # for so small a network single tasks are ten times slower
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_measuring_stops_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made()
    plain = Exact()

    class Greedy(Exact):
        def gradients(self, learner, tasks: TaskBatch, weight: float):
            if len(tasks) > 4:
                torch.empty(2**60, dtype=torch.uint8)
            return plain.gradients(learner, tasks, weight)

    assert choice.choose(EngineSettings(), Greedy(), learner, batch).chunk <= 4
