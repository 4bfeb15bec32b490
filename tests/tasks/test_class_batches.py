"""Mini-batches of all classes, and query sets with random proportions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks_numbered import FIRST, Numbered, where_from

from metarun.errors import ConfigError, with_keys
from metarun.tasks.draws import Draws
from metarun.tasks.images.class_batches import ClassBatches
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.query_balance import dirichlet_places

SIZES = {"way": 3, "shot": 2, "query": 4}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.integers(1, 12), first=st.integers(0, 100))
def test_an_epoch_has_every_image_once_and_a_batch_depends_on_its_number_alone(
    seed: int, size: int, first: int
) -> None:
    pool = Pool.of_equal(torch.arange(12).view(4, 3))
    batches = 12 // size
    epochs = [ClassBatches(pool, size, seed).batch(epoch * batches, batches) for epoch in (0, 1)]
    for epoch in epochs:
        assert len(epoch.x.unique()) == batches * size
        assert torch.equal(epoch.y, epoch.x // 3)
    alone = ClassBatches(pool, size, seed).batch(first + 2, 1)
    assert torch.equal(ClassBatches(pool, size, seed).batch(first, 4).x[2:3], alone.x)


def test_each_epoch_has_another_order() -> None:
    first, other = (ClassBatches(Pool.of_equal(torch.arange(600).view(6, 100)), 600, seed) for seed in (0, 1))
    assert not torch.equal(first.batch(0, 1).x, first.batch(1, 1).x)
    assert not torch.equal(first.batch(0, 1).x, other.batch(0, 1).x)


def test_training_tasks_are_mini_batches_and_the_others_stay_episodes() -> None:
    source, plain = Numbered(**SIZES, train_batch=7), Numbered(**SIZES)
    assert (source.trains_on, source.training_output_size) == ("images", 12)
    tasks = source.batch("train", 5, 2)
    assert (tasks.support.x.shape, tasks.query.x.shape, len(tasks)) == ((2, 0, 2), (2, 7, 2), 2)
    assert torch.equal(where_from(tasks, "query")[..., 0] - FIRST["train"], tasks.query.y)
    for split in ("validation", "test"):
        assert torch.equal(source.batch(split, 3, 2).query.x, plain.batch(split, 3, 2).query.x)


def test_proportions_are_dirichlets() -> None:
    way, total, alpha = 4, 400, 2
    places = dirichlet_places(Draws(0, 0, 0, 4000), alpha, torch.full((4000, way), 400), total, 400)
    counts = torch.stack([(places // 400 == label).sum(1) for label in range(way)], 1).double()
    assert (counts.sum(1) == total).all()
    proportions, whole = counts / total, way * alpha
    variance = (1 / way) * (1 - 1 / way) / (whole + 1)
    assert (proportions.mean(0) - 1 / way).abs().max() < 0.01
    assert (proportions.var(0) / variance - 1).abs().max() < 0.08


def test_counts_are_rounded_proportions_and_full_classes_leave_the_rest_to_others() -> None:
    places = dirichlet_places(Draws(3, 0, 0, 500), 1, torch.full((500, 3), 6), 12, 6)
    counts = torch.stack([(places // 6 == label).sum(1) for label in range(3)], 1)
    assert (counts.sum(1) == 12).all()
    assert counts.max() == 6
    gammas = -torch.log1p(-Draws(3, 0, 0, 500).uniform(3, 1)).sum(-1)
    wanted = 12 * gammas / gammas.sum(1, keepdim=True)
    free = (counts < 6).all(1)  # nothing was cut
    assert free.sum() > 50
    assert ((counts - wanted).abs() < 1)[free].all()
    # The images of a class are taken in order, each once.
    for row in places[:50].tolist():
        for label in range(3):
            own = [place - 6 * label for place in row if place // 6 == label]
            assert own == list(range(len(own)))


def test_an_unequal_query_set_has_the_same_support_set_and_none_of_its_images() -> None:
    plain, source = Numbered(**SIZES), Numbered(**SIZES, query_balance="dirichlet")
    assert torch.equal(source.batch("train", 0, 9).query.x, plain.batch("train", 0, 9).query.x)
    for split in ("validation", "test"):
        before, tasks = plain.batch(split, 7, 30), source.batch(split, 7, 30)
        assert torch.equal(tasks.support.x, before.support.x)
        assert torch.equal(tasks.info["image"], before.info["image"])
        assert tasks.query.y.shape == (30, 12)
        assert (tasks.query.y == 0).sum(1).unique().numel() > 2
        for t in range(30):
            support, query = (
                {tuple(image) for image in where_from(tasks, part)[t].tolist()}
                for part in ("support", "query")
            )
            assert len(query) == 12
            assert not support & query
            assert {kind for kind, _ in query} <= {kind for kind, _ in support}


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"train_batch": 7, "train_way": 3}, "data.train_way=3 has no effect with data.train_batch=7"),
        (
            {"train_batch": 97},
            "there are 96 training images: type data.train_batch=96 or less",
        ),
        (
            {"query_concentration": 3},
            "query_concentration=3 has no effect with data.query_balance=equal",
        ),
    ],
)
def test_what_has_no_effect_or_does_not_fit_is_refused(keys: dict[str, int], complaint: str) -> None:
    with pytest.raises(ConfigError) as error, with_keys():
        Numbered(**SIZES, **keys)
    assert complaint in str(error.value)
