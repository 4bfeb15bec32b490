"""Results in order, errors passed on, and the number of torch's threads in every worker."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from metarun.system.workers import Workers


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.02 * (5 - item))
        return item * item

    assert list(Workers(count).map(slow_first, range(5))) == [0, 1, 4, 9, 16]


def test_one_worker_is_the_callers_own_thread() -> None:
    assert list(Workers(1).map(lambda _: threading.current_thread(), [0])) == [threading.main_thread()]
    assert threading.main_thread() not in list(Workers(2).map(lambda _: threading.current_thread(), [0, 1]))


@pytest.mark.parametrize("count", [1, 3])
def test_errors_reach_the_caller(count: int) -> None:
    def fail(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(Workers(count).map(fail, [1, 0, 2]))


def test_workers_have_the_threads_of_the_moment() -> None:
    before = torch.get_num_threads()
    try:
        for threads in (2, 1, 3):
            torch.set_num_threads(threads)
            assert set(Workers(2).map(lambda _: torch.get_num_threads(), range(6))) == {threads}
    finally:
        torch.set_num_threads(before)
