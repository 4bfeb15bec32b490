"""The processes that train one run together (torchrun), or the one that does so alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metarun.errors import MetarunError

Made = TypeVar("Made")


class LostRankError(MetarunError):
    """Another process of the run is gone, and with it the run."""


class ElsewhereError(MetarunError):
    """The first process has failed, and says why itself."""


def started() -> int:
    """Return how many processes torchrun has started, this one included; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


class Ranks:
    """This process among those of a run, each of which computes its share of every meta-batch.

    Attributes:
        number: of this process; the first, 0, writes all files.
        count: of all of them.
    """

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self.number, self.count = number, count

    @classmethod
    def join(cls) -> Ranks:
        """Meet the other processes that torchrun has started, if it has."""
        count = started()
        if count > 1 and not dist.is_initialized():
            # Plain values go over gloo even where gradients go over nccl.
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        return cls(int(os.environ["RANK"]), count) if count > 1 else cls()

    def part(self) -> None:
        """Leave the others, once all are here: a connection that breaks at the end would count as an error.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count > 1:
            with _reached():
                dist.barrier()
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process writes the files of the run, and speaks for it."""
        return self.number == 0

    def share(self, tasks: int) -> slice:
        """Return which of so many tasks are this process's own; none differ by more than one."""
        return slice(self.number * tasks // self.count, (self.number + 1) * tasks // self.count)

    def all_reduce(
        self, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], numbers: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Sum tensors by name, and a vector, over the processes, in one message.

        Args:
            tensors: of this process.
            like: tensors of all names that any process may have, the same in all of them.
            numbers: the vector.

        Returns:
            The sums by every name that some process has, and that of the vectors; the same bits in every
            process.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count == 1:
            return dict(tensors), numbers
        own = [tensors.get(name, torch.zeros_like(each)) for name, each in like.items()]
        present = numbers.new_tensor([float(name in tensors) for name in like])
        flat = torch.cat([numbers, present, *(each.flatten().to(numbers.dtype) for each in own)])
        with _reached():
            dist.all_reduce(flat)
        sizes = [len(numbers), len(present), *(each.numel() for each in own)]
        numbers, present, *parts = torch.split(flat, sizes)
        sums = {
            name: part.view_as(each).to(each.dtype)
            for (name, each), part, used in zip(like.items(), parts, present.tolist(), strict=True)
            if used
        }
        return sums, numbers

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all processes, in their order, along the last dimension.

        One message, so what belongs together is best stacked before.

        Raises:
            LostRankError: another process is gone.
        """
        if self.count == 1:
            return values
        parts: list[Tensor | None] = [None] * self.count
        with _reached():
            dist.all_gather_object(parts, values.cpu())
        return torch.cat([part for part in parts if part is not None], dim=-1)

    def broadcast_from_rank0(self, make: Callable[[], Made]) -> Made:
        """Return what the first process makes, in all of them.

        Raises:
            ElsewhereError: the first process could not, and has raised why.
            LostRankError: it is gone.
        """
        if self.count == 1:
            return make()
        message: list[tuple[bool, Made | None]] = [(False, None)]
        if self.first:
            try:
                message = [(True, make())]
            finally:  # so that the others do not wait for what will not come
                self._send(message)
        else:
            self._send(message)
        made, result = message[0]
        if not made:
            raise ElsewhereError("the first process has failed")
        return result  # type: ignore[return-value]

    @staticmethod
    def _send(message: list[tuple[bool, Made | None]]) -> None:
        with _reached():
            dist.broadcast_object_list(message, src=0)


_GONE = ("connection", "broken pipe", "timed out", "timeout", "socket")


@contextmanager
def _reached() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's word for a connection that was closed, or that timed out
        if not any(word in str(error).lower() for word in _GONE):
            raise
        raise LostRankError(f"another process of this run is gone ({str(error).splitlines()[0]})") from error
