"""Seeds: of the global generators before each piece of work, and of every consumer of random numbers."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

Seeding = Literal["streams", "shared"]


@dataclass(frozen=True)
class Streams:
    """Where each consumer of random numbers starts: its name and all bits of the seed say so.

    Args:
        seed: of the run, or of its data.
        seeding: `streams`; or `shared`, as runs have it that were begun before: all consumers draw the same
            numbers, those of the low 32 bits of the seed, which is all that torch's generators take.
    """

    seed: int
    seeding: Seeding = "streams"

    def start(self, consumer: str, number: int = 0) -> int:
        """Return the seed of a generator.

        Args:
            consumer: what draws: "model", "rule", "split", ….
            number: of the task it draws for, where it draws for one.
        """
        if self.seeding == "shared":
            return (number ^ self.seed) & (2**63 - 1)
        return state(self.seed, consumer, number)

    def generator(self, consumer: str) -> torch.Generator:
        """Return a generator on the CPU."""
        return torch.Generator().manual_seed(self.start(consumer))


def fix(seed: int, work: str, number: int = 0) -> None:
    """Seed torch, numpy and random from (seed, work, number).

    Nothing of metarun draws from them; a user's dropout does. No state has to be kept for a resumed run:
    the number of the step says it all. Several workers, or processes, draw in an order of their own.

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
    """Return where a generator starts that this piece of work draws from."""
    digest = hashlib.blake2b(f"{seed} {work} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
