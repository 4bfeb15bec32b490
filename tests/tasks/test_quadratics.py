"""Quadratics as learning tasks."""

from __future__ import annotations

import pytest
import torch

from metarun.tasks import Quadratics


def test_a_quadratic_is_one() -> None:
    source = Quadratics(dimension=4, dtype=torch.float64)
    batch = source.batch("test", 3, 2)
    theta = torch.randn(2, 4, dtype=torch.float64)
    predictions = batch.query.x @ theta[..., None]
    expected = (batch.info["W"] @ theta[..., None] - batch.info["y"][..., None]).square().sum((1, 2))
    torch.testing.assert_close(source.loss(predictions, batch.query.y), expected)
    assert batch.support is batch.query


@pytest.mark.parametrize("entries", ["normal", "uniform"])
def test_entries_have_the_distribution_that_is_asked_for(entries: str) -> None:
    info = Quadratics(entries=entries).batch("train", 0, 500).info
    for values in info.values():
        mean, spread = (0.0, 1.0) if entries == "normal" else (0.5, 12**-0.5)
        assert values.mean().item() == pytest.approx(mean, abs=0.06)
        assert values.std().item() == pytest.approx(spread, rel=0.05)


def test_functions_are_those_of_their_index() -> None:
    source = Quadratics()
    whole, part = source.batch("train", 0, 9), source.batch("train", 4, 3)
    assert torch.equal(whole.support.x[4:7], part.support.x)
    assert torch.equal(whole.support.y[4:7], part.support.y)
    assert not torch.equal(whole.support.x[0], source.batch("test", 0, 1).support.x[0])
