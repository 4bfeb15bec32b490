"""The start-up choice of an engine."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from metarun.engine import measuring, tuning
from metarun.engine.measuring import Timing
from metarun.engine.memory import bytes_kept
from metarun.engine.settings import Engine, EngineSettings
from metarun.errors import MetarunError
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, MetaStep, Progress
from metarun.models import MLP
from metarun.rules import SGD
from metarun.tasks import Sinusoid, Tasks


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    return tmp_path


def made(tasks: int = 10, adapts: str = "all") -> tuple[GradientAdaptation, Tasks]:
    source = Sinusoid(shot=10, query=10)
    learner = GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1),
        rule=SGD(lr=0.1),
        loop=InnerLoop(steps=1),
        adapts=adapts,
    )
    return learner, source.batch("train", 0, tasks)


def choose(tasks: int = 10, **settings: str | int) -> Engine:
    return tuning.choose(EngineSettings(**settings), Exact(), *made(tasks))


def bytes_of_a_task() -> int:
    learner, one = made(1)
    return bytes_kept(lambda tasks: Exact().gradients(learner, tasks, Progress(), 1.0), one)


def pretend(
    monkeypatch: pytest.MonkeyPatch, milliseconds: Callable[[Engine], float], cores: float = math.inf
) -> list[Engine]:
    """Let a task take so long with so many cores free, and return the engines that are measured."""
    asked: list[Engine] = []

    def time_once(engine: Engine, *_: object) -> Timing | None:
        asked.append(engine)
        took = milliseconds(engine)
        return Timing((took / 1e3,), cores) if math.isfinite(took) else None

    monkeypatch.setattr(measuring, "time_once", time_once)
    return asked


def by_chunk(**milliseconds: float) -> Callable[[Engine], float]:
    return lambda engine: milliseconds[f"of_{engine.chunk}"]


def each_once(asked: list[Engine]) -> list[Engine]:
    """The engines without the turns that those near the best take afterwards."""
    return list(dict.fromkeys(asked))


TWO_IS_BEST = by_chunk(of_1=3.0, of_2=1.0, of_4=2.0, of_7=3.0, of_8=4.0, of_10=4.0)


def test_a_number_is_that_number_and_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, by_chunk())
    chosen = choose(chunk=3, threads=5, workers=4)
    assert (chosen.chunk, chosen.threads, chosen.workers) == (3, 5, 4)
    assert choose(strategy="per_task").chunk == 1
    assert not asked


def test_the_fastest_chunk_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, by_chunk(of_1=2.3, of_2=2.2, of_4=2.0, of_8=2.1, of_10=2.2))
    assert choose().chunk == 4
    assert [each.chunk for each in each_once(asked)] == [1, 2, 4, 8, 10]


def test_chunks_beyond_one_that_is_far_too_slow_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, TWO_IS_BEST)
    assert choose().chunk == 2
    assert [each.chunk for each in asked] == [1, 2, 4, 4, 2]  # the slow one, and the best, once more


def test_batched_leaves_single_tasks_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, by_chunk(of_1=0.1, of_2=2.1, of_4=2.0, of_8=2.1, of_10=2.2))
    assert choose(strategy="batched").chunk == 4
    assert [each.chunk for each in each_once(asked)] == [2, 4, 8, 10]
    assert choose(tasks=1, strategy="batched").chunk == 2


def test_a_choice_is_remembered_for_this_work_alone(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    asked = pretend(monkeypatch, TWO_IS_BEST)
    assert [choose().chunk, choose().chunk] == [2, 2]
    assert len(asked) == 5
    (kept,) = (empty_cache / "engine").glob("*.json")
    content = json.loads(kept.read_text())
    assert content["chosen"] == {"chunk": 2, "workers": 1, "threads": 1}
    assert content["a task takes"][2] == {
        "chunk": 4,
        "workers": 1,
        "threads": 1,
        "milliseconds": 2.0,
        "spread": 0.0,
    }
    choose(tasks=7)
    choose(rematerialise=True)
    tuning.choose(EngineSettings(), Exact(), *made(adapts="head"))
    assert len(asked) == 20


@pytest.mark.parametrize("content", ["", "{", "[]", '{"chosen": 8}', '{"chunk": 2}', "\x00\xff"])
def test_a_damaged_memory_is_measured_anew(
    content: str, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    pretend(monkeypatch, TWO_IS_BEST)
    choose()
    (kept,) = (empty_cache / "engine").glob("*.json")
    kept.write_text(content, encoding="latin-1")
    assert choose().chunk == 2
    assert json.loads(kept.read_text())["chosen"]["chunk"] == 2


def test_a_cache_that_cannot_be_written_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = pretend(monkeypatch, TWO_IS_BEST)
    (empty_cache / "engine").write_text("a file where the folder should be")
    assert choose().chunk == 2
    assert len(asked) == 5
    assert "cannot be saved" in caplog.text


def test_chunks_stay_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bytes_of_a_task()
    pretend(monkeypatch, lambda engine: 1 / engine.chunk)
    for budget, largest in ((4 * one + one // 2, 4), (1, 1), (1000 * one, 10)):
        monkeypatch.setattr(tuning, "_CPU_BYTES", budget)
        assert choose().chunk == largest


@pytest.mark.parametrize(("alone", "workers"), [(0.9, 3), (0.7, 1)])
def test_one_worker_is_chosen_only_where_it_is_clearly_faster(
    alone: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_THREADS", 3)
    monkeypatch.setattr(tuning, "_SMALL_BYTES", 1)
    pretend(monkeypatch, lambda engine: alone if engine.workers == 1 else 1.0)
    assert choose().workers == workers


def remembered(cache: Path) -> int:
    return len(list((cache / "engine").glob("*.json")))


def test_those_near_the_best_take_turns_there_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pretend(monkeypatch, by_chunk(of_1=2.3, of_2=2.2, of_4=2.0, of_8=9.0))
    choose()
    there, back = [1, 2, 4], [4, 2, 1]
    assert [each.chunk for each in asked] == [1, 2, 4, 8, 8, *back, *there, *back, *there, *back]


def test_what_all_turns_say_together_is_chosen(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    first = iter([2.0, 1.9])  # one bad moment, and one good one
    asked = pretend(
        monkeypatch,
        lambda engine: 9.0 if engine.chunk > 2 else next(first, None) or {1: 1.0, 2: 2.1}[engine.chunk],
    )
    assert choose().chunk == 1
    assert len(asked) == 4 + 5 * 2
    (kept,) = (empty_cache / "engine").glob("*.json")
    times = [each["milliseconds"] for each in json.loads(kept.read_text())["a task takes"]]
    assert times == pytest.approx([1.0, 2.1, 9.0])


def test_a_timing_has_the_median_of_all_turns_and_the_distance_of_their_quartiles() -> None:
    timing = Timing((5.0,), 1.0) | Timing((1.0,)) | Timing((2.0,), 1.5) | Timing((4.0,)) | Timing((3.0,), 0.5)
    assert timing == Timing((5.0, 1.0, 2.0, 4.0, 3.0), 1.5)
    assert timing.median == 3.0
    assert timing.spread == 2.0
    assert Timing((5.0,)).spread == 0.0


@pytest.mark.parametrize(("slower", "clear"), [(1.1, True), (1.6, False)])
def test_times_that_differ_from_turn_to_turn_are_not_remembered(
    slower: float,
    clear: bool,
    monkeypatch: pytest.MonkeyPatch,
    empty_cache: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    turns: Counter[int] = Counter()

    def milliseconds(engine: Engine) -> float:
        turns[engine.chunk] += 1
        return by_chunk(of_1=1.15, of_2=1.0, of_4=9.0)(engine) * (slower if turns[engine.chunk] % 2 else 1.0)

    asked = pretend(monkeypatch, milliseconds)
    with caplog.at_level("INFO", "metarun"):
        assert choose().chunk == 2
    assert remembered(empty_cache) == clear
    assert ("it is not remembered" in caplog.text) == (not clear)
    once = len(asked)
    assert choose().chunk == 2
    assert (len(asked) == once) == clear


@pytest.mark.parametrize(("alone", "cores", "clear"), [(0.7, 2.9, True), (0.7, 2.0, False), (0.9, 2.0, True)])
def test_fewer_workers_are_remembered_only_where_all_cores_were_free(
    alone: float, cores: float, clear: bool, monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    monkeypatch.setattr(tuning, "_THREADS", 3)
    monkeypatch.setattr(tuning, "_SMALL_BYTES", 1)
    pretend(monkeypatch, lambda engine: alone if engine.workers == 1 else 1.0, cores)
    assert choose(chunk=1).workers == (1 if alone == 0.7 else 3)
    assert remembered(empty_cache) == clear


def test_large_work_is_measured_with_one_worker_and_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    one = bytes_of_a_task()
    monkeypatch.setattr(tuning, "_THREADS", 7)
    monkeypatch.setattr(tuning, "_SMALL_BYTES", 5 * one)
    asked = pretend(monkeypatch, lambda engine: 1 / (engine.workers * engine.threads))

    def ways(tasks: int, **settings: int) -> list[tuple[int, int]]:
        asked.clear()
        chosen = choose(tasks, chunk=1, **settings)
        assert chosen.keep_memory == (tasks > 4)
        return [(each.workers, each.threads) for each in each_once(asked) or [chosen]]

    assert ways(4) == [(1, 1)]
    assert ways(6) == [(6, 1), (1, 1)]  # no more workers than tasks
    assert ways(60) == [(7, 1), (1, 1)]
    assert ways(60, workers=1) == [(1, 1), (1, 7)]
    assert ways(60, workers=2, threads=3) == [(2, 3)]
    assert choose(60, chunk=1).workers == 7
    monkeypatch.setattr(tuning, "_SMALL_BYTES", 1)
    asked.clear()
    assert choose(1).threads == 7  # one task has nothing to share but its operations
    assert [(each.workers, each.threads) for each in each_once(asked)] == [(1, 1), (1, 7)]


def test_measuring_is_real_and_leaves_no_trace() -> None:
    learner, batch = made()
    state, random = {k: v.clone() for k, v in learner.state_dict().items()}, torch.get_rng_state()
    chosen = tuning.choose(EngineSettings(), Exact(), learner, batch)
    assert chosen.chunk > 1  # for so small a network single tasks are ten times slower
    assert all(torch.equal(v, state[k]) for k, v in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_where_nothing_fits_the_error_says_so_and_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch, empty_cache: Path
) -> None:
    pretend(monkeypatch, lambda _: float("inf"))
    with pytest.raises(MetarunError, match="does not fit into memory"):
        choose()
    assert not list((empty_cache / "engine").glob("*.json"))


def test_measuring_stops_where_memory_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    learner, batch = made()
    plain = Exact()

    class Greedy(Exact):
        def gradients(self, learner, tasks: Tasks, *arguments: object) -> MetaStep:
            if len(tasks) > 4:
                torch.empty(2**60, dtype=torch.uint8)
            return plain.gradients(learner, tasks, *arguments)

    assert tuning.choose(EngineSettings(), Greedy(), learner, batch).chunk <= 4


def test_one_bad_moment_does_not_end_the_search_for_larger_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([9.0])  # something else had the core when two tasks were timed

    def milliseconds(engine: Engine) -> float:
        if engine.chunk == 2 and (bad := next(moments, None)):
            return bad
        return 4.0 / engine.chunk

    pretend(monkeypatch, milliseconds)
    assert choose().chunk == 10
