"""Random numbers as a pure function of (seed, stream, episode, counter).

SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") used as a hash:
draws share no state, so any episode can be generated anywhere, in any order, and a few tensor operations
generate all episodes of a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metarun.system.hashing import GOLDEN, box_muller, mix, signed, uniform


class Draws:
    """Random numbers for `count` consecutive episodes; every result is [count, *shape].

    Each call uses the next counters, so an episode depends on the order of calls.

    Attributes:
        count: number of episodes.
        stream: number of the seed's stream that the draws belong to.
        episodes: the index of each episode, int64 [count].
    """

    def __init__(
        self, seed: int, stream: int, first_episode: int, count: int, device: torch.device | str = "cpu"
    ) -> None:
        self.count, self.stream = count, stream
        self.episodes = torch.arange(first_episode, first_episode + count, device=device)
        self._counter = 0
        origin = mix(mix(torch.tensor([signed(seed)], device=device) + GOLDEN) + signed(stream * GOLDEN))
        self._keys = mix(origin + (self.episodes + 1) * GOLDEN)

    def bits(self, *shape: int) -> Tensor:
        """Return 64 random bits per entry, as int64 [count, *shape]."""
        entries = math.prod(shape)
        counters = torch.arange(self._counter + 1, self._counter + entries + 1, device=self._keys.device)
        self._counter += entries
        return mix(self._keys[:, None] + counters * GOLDEN).view(self.count, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """Return float64 in [0, 1), multiples of 2⁻⁵³."""
        return uniform(self.bits(*shape))

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal float64."""
        return box_muller(self.uniform(*shape, 2))

    def choose(self, n: int, k: int, *shape: int, rooms: Tensor | None = None) -> Tensor:
        """Return k distinct integers below n in random order, int64 [count, *shape, k].

        Args:
            n: the integers are 0 … n − 1.
            k: number of integers.
            *shape: shape of the entries; each entry has k integers of its own.
            rooms: an upper limit of each entry, [count, *shape], at most n; integers not below it come last.
        """
        bits = self.bits(*shape, n)
        if rooms is not None:
            outside = torch.arange(n, device=bits.device) >= rooms[..., None]
            bits = bits.masked_fill(outside, torch.iinfo(torch.int64).min)
        return bits.topk(k, dim=-1).indices
