"""SplitMix64 as a hash: random bits that are a function of a counter (Steele, Lea & Flood 2014)."""

from __future__ import annotations

import torch
from torch import Tensor


def signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit integer."""
    return (value & (2**64 - 1)) - (2**64 if value & 2**63 else 0)


GOLDEN = signed(0x9E3779B97F4A7C15)
_FIRST = signed(0xBF58476D1CE4E5B9)
_SECOND = signed(0x94D049BB133111EB)


def shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift int64 as if it had no sign."""
    # torch shifts int64 arithmetically; the mask clears the copies of the sign bit.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 tensors (multiplication wraps, as it does in C on uint64)."""
    z = (z ^ shift_right(z, 30)) * _FIRST
    z = (z ^ shift_right(z, 27)) * _SECOND
    return z ^ shift_right(z, 31)


def uniform(bits: Tensor) -> Tensor:
    """Return float64 in [0, 1), multiples of 2⁻⁵³, of random int64."""
    return shift_right(bits, 11).double() * 2.0**-53


def box_muller(pairs: Tensor) -> Tensor:
    """Map pairs of uniform numbers [..., 2] to standard normal ones [...] (Box & Muller 1958)."""
    radius, angle = pairs.unbind(-1)
    return (-2.0 * torch.log1p(-radius)).sqrt() * torch.cos(2.0 * torch.pi * angle)


def normal(keys: Tensor, number: int, count: int) -> Tensor:
    """Return `count` standard normal float64 for each key [T] and a stream's number, [T, count]."""
    return box_muller(uniform(streams(keys, number, 2 * count)).view(len(keys), count, 2))


def streams(keys: Tensor, number: int, count: int) -> Tensor:
    """Return `count` random int64 for each key [T] and a stream's number, [T, count]."""
    origins = mix(mix(keys + GOLDEN) + signed(number * GOLDEN))
    return mix(origins[:, None] + torch.arange(1, count + 1, device=keys.device) * GOLDEN)
