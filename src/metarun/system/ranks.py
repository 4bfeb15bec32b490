"""The processes that train one run together (torchrun), or the only one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarun.errors import MetarunError

Value = TypeVar("Value")


class LostRankError(MetarunError):
    """Another process of the run has ended, so the run cannot go on."""


class ElsewhereError(MetarunError):
    """The first process has failed, and reports the reason itself."""


def started() -> int:
    """Return how many processes torchrun has started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


class Ranks:
    """This process among those of a run; each computes its share of every meta-batch.

    Attributes:
        number: of this process; the first, 0, writes all files.
        count: the number of processes.
    """

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count

    @classmethod
    def join(cls) -> Ranks:
        """Connect to the other processes if torchrun has started some."""
        count = started()
        if count > 1 and not dist.is_initialized():
            # Plain values go over gloo even where gradients go over nccl.
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(int(os.environ["RANK"]), count) if count > 1 else cls()

    def part(self) -> None:
        """Wait for all processes, then disconnect: an earlier disconnection would be an error in the others.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count > 1:
            with _lost_rank_errors():
                dist.barrier()
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes the files and the messages of the run."""
        return self.number == 0

    def share(self, tasks: int) -> slice:
        """Return this process's slice of `tasks` tasks; the shares differ by at most one task."""
        return slice(self.number * tasks // self.count, (self.number + 1) * tasks // self.count)

    def all_reduce(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], numbers: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum tensors by name, and a vector, over the processes, in one message.

        Args:
            tensors: of this process.
            like: a tensor of the right shape and dtype for every name, the same in all processes.
            numbers: the vector.

        Returns:
            The sum of each name that some process has, and the sum of the vectors; bit for bit the same in
            every process.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count == 1:
            return dict(tensors), numbers
        summands = [tensors.get(name, torch.zeros_like(template)) for name, template in like.items()]
        present = numbers.new_tensor([float(name in tensors) for name in like])
        flat = torch.cat([numbers, present, *(tensor.flatten().to(numbers.dtype) for tensor in summands)])
        with _lost_rank_errors():
            dist.all_reduce(flat)
        sizes = [len(numbers), len(present), *(tensor.numel() for tensor in summands)]
        numbers, present, *parts = torch.split(flat, sizes)
        sums = {
            name: part.view_as(template).to(template.dtype)
            for (name, template), part, used in zip(like.items(), parts, present.tolist(), strict=True)
            if used
        }
        return sums, numbers

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes, concatenated in their order along the last dimension.

        Each call sends one message, so values that belong together should be stacked first.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count == 1:
            return values
        parts: list[Tensor | None] = [None] * self.count
        with _lost_rank_errors():
            dist.all_gather_object(parts, values.cpu())
        return torch.cat([part for part in parts if part is not None], dim=-1)

    def broadcast_from_rank0(self, make: Callable[[], Value]) -> Value:
        """Call `make` in the first process and return its value in all of them.

        Raises:
            ElsewhereError: `make` has failed in the first process, which raises the error itself.
            LostRankError: the first process is gone.
        """
        if self.count == 1:
            return make()
        message: list[tuple[bool, Value | None]] = [(False, None)]
        if self.first:
            try:
                message = [(True, make())]
            finally:  # if `make` fails, the other processes must not wait
                self._send(message)
        else:
            self._send(message)
        succeeded, value = message[0]
        if not succeeded:
            raise ElsewhereError("the first process has failed")
        return value  # type: ignore[return-value]

    @staticmethod
    def _send(message: list[tuple[bool, Value | None]]) -> None:
        with _lost_rank_errors():
            dist.broadcast_object_list(message, src=0)


_CONNECTION_WORDS = ("connection", "broken pipe", "timed out", "timeout", "socket")


@contextmanager
def _lost_rank_errors() -> Iterator[None]:
    """Raise LostRankError in the place of torch's errors of a lost connection."""
    try:
        yield
    except RuntimeError as error:  # torch's type of error for a connection that was closed or timed out
        if not any(word in str(error).lower() for word in _CONNECTION_WORDS):
            raise
        raise LostRankError(f"another process of this run is gone ({str(error).splitlines()[0]})") from error
