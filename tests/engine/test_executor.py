"""Chunks, workers, and what happens where memory ends: the only place that cuts."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from metarun.engine.executor import Executor, split_into_chunks
from metarun.engine.settings import Engine
from metarun.errors import MetarunError
from metarun.learners import Learner
from metarun.tasks import Predictions, Tasks


class Constant(Learner[None]):
    """A learner for executors that compute without one."""

    def adapt(self, tasks: Tasks) -> None:
        """Learn nothing."""

    def predict(self, adapted: None, x: torch.Tensor) -> Predictions:
        return x


def executor(told: list[int] | None = None, **engine: int) -> Executor:
    made: Executor = Executor(
        Engine(**engine), Constant(), lambda: None if told is None else told.append(made.engine.chunk)
    )
    return made


@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 8))
def test_chunks_hold_every_task_once_and_are_as_equal_as_that_goes(
    tasks: int, largest: int, workers: int
) -> None:
    chunks = split_into_chunks(tasks, largest, workers)
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert [task for chunk in chunks for task in range(tasks)[chunk]] == list(range(tasks))
    assert max(sizes) <= largest
    assert sizes[:-1] == sizes[:1] * (len(sizes) - 1)  # all but the last are alike
    assert len(chunks) >= min(workers, tasks) or sizes[0] == -(-tasks // workers)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    made = executor(chunk=2, workers=workers)
    assert made.map(lambda chunk: list(range(10)[chunk]), 10) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_all_is_computed_again_in_halves_where_memory_ends() -> None:
    told: list[int] = []
    made = executor(told, chunk=12)
    tried: list[int] = []

    def greedy(chunk: slice) -> list[int]:
        size = chunk.stop - chunk.start
        tried.append(size)
        if size > 3 and chunk.start > 0:
            torch.empty(2**60, dtype=torch.uint8)
        return list(range(16)[chunk])

    found = made.map(greedy, 16)
    assert [task for part in found for task in part] == list(range(16))
    assert tried == [8, 8, 4, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert told == [4, 2]  # for good
    assert made.engine.chunk == 2


def test_where_not_one_task_fits_the_error_says_so() -> None:
    def greedy(chunk: slice) -> None:
        raise MemoryError

    with pytest.raises(MetarunError, match="one task does not fit into memory"):
        executor(chunk=4).map(greedy, 8)


def test_other_errors_are_not_taken_for_lack_of_memory() -> None:
    def wrong(chunk: slice) -> None:
        raise RuntimeError("a shape")

    told: list[int] = []
    with pytest.raises(RuntimeError, match="a shape"):
        executor(told, chunk=4).map(wrong, 8)
    assert not told


def test_what_shows_the_progress_may_stop_it() -> None:
    def show(results, total: int):
        assert total == 4
        yield next(iter(results))
        raise KeyboardInterrupt

    computed: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        executor(chunk=2).map(lambda chunk: computed.append(chunk.start), 8, show)
    assert computed == [0]


def test_executors_that_take_turns_use_their_own_engines() -> None:
    before = torch.get_num_threads()
    try:
        one, other = executor(chunk=1, threads=1), executor(chunk=1, threads=2)
        for made, threads in ((one, 1), (other, 2), (other, 2), (one, 1)):
            assert made.map(lambda _: torch.get_num_threads(), 1) == [threads]
    finally:
        torch.set_num_threads(before)
        executor(chunk=1).map(lambda _: None, 1)


def test_workers_are_other_threads() -> None:
    made = executor(chunk=1, workers=2)
    assert threading.main_thread() not in made.map(lambda _: threading.current_thread(), 4)
