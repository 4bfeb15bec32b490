"""Meta-batches made several at a time."""

from __future__ import annotations

import pytest
import torch

from metarun.tasks import Sinusoid, Tasks, prefetch
from metarun.tasks.prefetch import Prefetcher


def equal(found: Tasks, expected: Tasks) -> bool:
    pairs = [
        (found.support.x, expected.support.x),
        (found.support.y, expected.support.y),
        (found.query.x, expected.query.x),
        (found.query.y, expected.query.y),
    ]
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_step_has_its_own_episodes_wherever_one_begins() -> None:
    source = Sinusoid(shot=3, query=4)
    through = Prefetcher(source, 5)
    for step in range(600):
        batch = through.batch(step)
        if step % 97 == 0 or step > 597:
            assert equal(batch, source.batch("train", 5 * step, 5))
            assert equal(batch, Prefetcher(source, 5).batch(step))


@pytest.mark.parametrize(("size", "calls"), [(2**22, 3), (1, 301)])
def test_blocks_are_large_where_episodes_are_small(
    size: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "_BYTES", size)
    source, made = Sinusoid(shot=3, query=4), []
    plain = source.batch

    def batch(*arguments) -> Tasks:
        made.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(source, "batch", batch)
    through = Prefetcher(source, 5)
    for step in range(300):
        through.batch(step)
    assert len(made) == calls  # the first to see how large an episode is
