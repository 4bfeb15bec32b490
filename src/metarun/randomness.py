"""The global generators, set before each piece of work, so that what draws from them can be repeated."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def fix(seed: int, work: str, number: int = 0) -> None:
    """Let torch's, numpy's and Python's generators follow from what is about to be done, and nothing else.

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
