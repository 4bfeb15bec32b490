"""Tasks computed from a formula: their formula, their distribution, and their being pure functions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from metarun.tasks import BinaryClassification, LinearRegression, Sinusoid, TaskSource

SOURCES = {
    "sinusoid": lambda **k: Sinusoid(frequency=(0.8, 1.2), **k),
    "linear_regression": lambda **k: LinearRegression(noise=0.1, **k),
    "binary_classification": lambda **k: BinaryClassification(dimension=3, **k),
}


@pytest.fixture(params=SOURCES)
def make(request: pytest.FixtureRequest):
    return SOURCES[request.param]


def test_the_same_arguments_give_the_same_bits(make) -> None:
    source: TaskSource = make(shot=3, query=4, seed=5)
    whole, again = source.batch("train", 10, 6), make(shot=3, query=4, seed=5).batch("train", 12, 1)
    assert torch.equal(whole.support.x[2:3], again.support.x)
    assert torch.equal(whole.support.y[2:3], again.support.y)
    assert torch.equal(whole.query.x[2:3], again.query.x)
    assert torch.equal(whole.query.y[2:3], again.query.y)


def test_splits_seeds_and_episodes_differ(make) -> None:
    batches = [
        make(shot=3, query=4, seed=seed).batch(split, 0, 2).support.x
        for seed in (0, 1)
        for split in ("train", "validation", "test")
    ]
    flat = torch.stack([x for batch in batches for x in batch]).flatten(1)
    assert len(flat.unique(dim=0)) == len(flat)


def test_other_shots_leave_task_and_query_set_alone(make) -> None:
    few, many = make(shot=1, query=4).batch("test", 0, 3), make(shot=9, query=4).batch("test", 0, 3)
    assert torch.equal(few.query.x, many.query.x)
    assert torch.equal(few.query.y, many.query.y)
    assert all(torch.equal(few.info[name], many.info[name]) for name in few.info)


def test_training_may_have_other_shots(make) -> None:
    source = make(shot=1, query=4, train_shot=6)
    assert len(source.batch("train", 0, 2).support) == 6 * len(source.batch("test", 0, 2).support)


def test_shapes_are_what_a_model_is_told(make) -> None:
    source = make(shot=3, query=4)
    batch = source.batch("train", 0, 2)
    assert batch.support.x.shape[2:] == source.input_shape
    assert batch.support.x.dtype == torch.float32
    predictions = torch.zeros(2, len(batch.query), source.output_size)
    assert source.loss(predictions, batch.query.y).shape == (2,)


def test_sinusoid_is_a_sine_of_its_own_amplitude_phase_and_frequency() -> None:
    batch = Sinusoid(shot=3, query=4, frequency=(0.8, 1.2), dtype=torch.float64).batch("train", 0, 5)
    for t in range(5):
        a, phi, f = (batch.info[name][t].item() for name in ("amplitude", "phase", "frequency"))
        for x, y in zip(
            batch.query.x[t].flatten().tolist(), batch.query.y[t].flatten().tolist(), strict=True
        ):
            assert y == pytest.approx(a * math.sin(f * x + phi), abs=1e-12)


def test_sinusoid_draws_are_uniform_on_their_intervals() -> None:
    source = Sinusoid(shot=1, query=1, amplitude=(1.0, 3.0), phase=(0.0, 1.0), x_range=(-2.0, 0.0))
    batch = source.batch("train", 0, 4000)
    assert stats.kstest((batch.info["amplitude"] - 1) / 2, "uniform").pvalue > 1e-3
    assert stats.kstest(batch.info["phase"], "uniform").pvalue > 1e-3
    assert stats.kstest(batch.support.x.flatten() / 2 + 1, "uniform").pvalue > 1e-3
    assert batch.info["frequency"].unique().tolist() == [1.0]


def test_linear_regression_is_a_line_with_noise() -> None:
    source = LinearRegression(shot=200, query=1, noise=0.5, dtype=torch.float64)
    batch = source.batch("train", 0, 20)
    line = batch.info["slope"][:, None, None] * batch.support.x + batch.info["intercept"][:, None, None]
    assert stats.kstest(((batch.support.y - line) / 0.5).flatten(), "norm").pvalue > 1e-3


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_classes_are_the_sides_of_the_true_direction_and_balanced(loss: str) -> None:
    batch = BinaryClassification(shot=3, query=5, dimension=4, loss=loss).batch("train", 0, 50)
    for examples, shots in ((batch.support, 3), (batch.query, 5)):
        side = torch.einsum("tnd,td->tn", examples.x.double(), batch.info["direction"]) > 0
        assert torch.equal(side, examples.y.bool())
        assert (examples.y.sum(1) == shots).all()
    assert torch.allclose(batch.info["direction"].norm(dim=1), torch.ones(50, dtype=torch.float64))


def test_mirroring_keeps_the_inputs_normal_across_the_direction() -> None:
    batch = BinaryClassification(shot=10, query=1, dimension=3).batch("train", 0, 200)
    along = torch.einsum("tnd,td->tn", batch.support.x.double(), batch.info["direction"])
    assert stats.kstest(along.flatten(), "norm").pvalue > 1e-3
