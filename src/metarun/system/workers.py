"""Threads that work on different tasks at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Maps a function over chunks of tasks; torch lets other threads run while it computes.

    Args:
        count: the number of threads; with 1 the caller's thread does all the work.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield the results in the order of the items."""
        if self.count == 1:
            return map(function, items)
        return _pool(self.count, torch.get_num_threads()).map(function, items)


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:  # noqa: ARG001
    # A thread reads torch's number of threads only once, so each number needs its own pool.
    return ThreadPoolExecutor(count, thread_name_prefix="metarun")
