"""Random numbers are a pure function of (seed, stream, episode, counter), and look random."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metarun.tasks.draws import Draws

WORD = 2**64 - 1
seeds = st.integers(0, 2**63 - 1)
episodes = st.integers(0, 2**40)


def mix(z: int) -> int:
    """SplitMix64's finaliser as its authors' C code has it, on Python's integers."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def expected_bits(seed: int, stream: int, episode: int, counter: int) -> int:
    golden = 0x9E3779B97F4A7C15
    origin = mix((mix((seed + golden) & WORD) + stream * golden) & WORD)
    key = mix((origin + (episode + 1) * golden) & WORD)
    return mix((key + (counter + 1) * golden) & WORD)


@given(seeds, st.integers(0, 2), episodes, st.integers(1, 5), st.integers(1, 7))
def test_bits_are_splitmix64(seed: int, stream: int, first: int, count: int, n: int) -> None:
    bits = Draws(seed, stream, first, count).bits(n).tolist()
    for row, episode in zip(bits, range(first, first + count), strict=True):
        assert [b & WORD for b in row] == [expected_bits(seed, stream, episode, c) for c in range(n)]


@given(seeds, episodes, st.integers(1, 20))
def test_an_episode_is_the_same_alone_and_in_any_batch(seed: int, episode: int, before: int) -> None:
    first = max(0, episode - before)
    alone, batch = Draws(seed, 0, episode, 1), Draws(seed, 0, first, episode - first + 2)
    for _ in range(2):  # and so are the draws that follow
        assert torch.equal(alone.uniform(3), batch.uniform(3)[episode - first : episode - first + 1])


def test_uniform_is_uniform_in_every_direction() -> None:
    draws = Draws(0, 0, 0, 2000).uniform(20)
    assert draws.min() >= 0
    assert draws.max() < 1
    for values in (draws.flatten(), draws[:, 0], draws[0], (draws[1:] - draws[:-1]).remainder(1).flatten()):
        assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-3
    between_seeds = (Draws(1, 0, 0, 2000).uniform(20) - draws).remainder(1)
    assert stats.kstest(between_seeds.flatten().numpy(), "uniform").pvalue > 1e-3


def test_normal_is_normal() -> None:
    assert stats.kstest(Draws(0, 0, 0, 500).normal(20).flatten().numpy(), "norm").pvalue > 1e-3


@given(seeds, st.integers(1, 12), st.data())
def test_choose_never_repeats(seed: int, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, n))
    chosen = Draws(seed, 0, 0, 3).choose(n, k, 2)
    assert chosen.shape == (3, 2, k)
    assert all(len(set(row.tolist())) == k and row.min() >= 0 and row.max() < n for row in chosen.view(-1, k))


def test_choose_gives_every_ordered_pair_equally_often() -> None:
    pairs = Draws(0, 0, 0, 12000).choose(4, 2)
    counts = torch.bincount(pairs[:, 0] * 4 + pairs[:, 1], minlength=16).view(4, 4)
    assert counts.diagonal().sum() == 0
    off = counts[~torch.eye(4, dtype=torch.bool)]
    assert stats.chisquare(off.numpy()).pvalue > 1e-3
