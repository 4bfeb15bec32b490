"""Seeds of the global generators before each piece of work, and of every consumer of random numbers."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Seeding = Literal["streams", "shared"]


@dataclass(frozen=True)
class Streams:
    """The seed of each consumer's generator, derived from the consumer's name and all bits of the seed.

    Args:
        seed: of the run, or of its data.
        seeding: `streams`; or `shared`, for older runs: all consumers draw the same numbers, those of the low
            32 bits of the seed, which is all that torch's generators take.
    """

    seed: int
    seeding: Seeding = "streams"

    def start(self, consumer: str, number: int = 0) -> int:
        """Return the seed of a generator.

        Args:
            consumer: what draws the numbers: "model", "rule", "split", ….
            number: of the task that it draws for, if it draws for a single task.
        """
        if self.seeding == "shared":
            return (number ^ self.seed) & (2**63 - 1)
        return state(self.seed, consumer, number)

    def generator(self, consumer: str) -> torch.Generator:
        """Return a consumer's generator, on the CPU."""
        return torch.Generator().manual_seed(self.start(consumer))

    @contextmanager
    def drawing(self, consumer: str) -> Iterator[None]:
        """Seed the global generator, from which torch's layers draw, and restore it afterwards."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.start(consumer))
            yield


def fix(seed: int, work: str, number: int = 0) -> None:
    """Seed torch, numpy and random from (seed, work, number).

    metarun itself does not draw from these generators, but a user's class may. A resumed run needs no saved
    state, only the number of the step. With several workers or processes the order of draws is not fixed.

    Args:
        seed: of the run.
        work: "step", or a split that is evaluated.
        number: of the meta-step.
    """
    start = state(seed, work, number)
    random.seed(start)
    np.random.seed(start % 2**32)
    torch.default_generator.manual_seed(start)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(start)


def state(seed: int, work: str, number: int = 0) -> int:
    """Return the seed of a generator for this piece of work."""
    digest = hashlib.blake2b(f"{seed} {work} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
