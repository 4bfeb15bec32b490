"""The sampler of N-way K-shot episodes, on images that say where they are from."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from tasks_numbered import CLASSES, FIRST, Numbered, where_from

from metarun.errors import ConfigError, with_keys
from metarun.tasks import Split


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    way=st.integers(2, 7),
    shot=st.integers(1, 4),
    query=st.integers(1, 4),
    split=st.sampled_from(["train", "validation", "test"]),
    first=st.integers(0, 10**9),
)
def test_every_episode_is_in_order(
    seed: int, way: int, shot: int, query: int, split: Split, first: int
) -> None:
    batch = Numbered(way=way, shot=shot, query=query, seed=seed).batch(split, first, 3)
    for t in range(3):
        support, asked = where_from(batch, "support")[t].tolist(), where_from(batch, "query")[t].tolist()
        # No image twice, neither inside a set nor in both.
        assert len({tuple(each) for each in support + asked}) == way * (shot + query)
        # Characters of this split only, each with one label, shot and query times.
        labels = {}
        for part, count in (("support", shot), ("query", query)):
            y = getattr(batch, part).y[t].tolist()
            assert sorted(y) == sorted(list(range(way)) * count)
            for (kind, _), label in zip(where_from(batch, part)[t].tolist(), y, strict=True):
                assert FIRST[split] <= kind < FIRST[split] + CLASSES[split]
                assert labels.setdefault(label, kind) == kind
        assert len(set(labels.values())) == way


def test_train_validation_and_test_share_no_class() -> None:
    source = Numbered(way=5, shot=1, query=1)
    seen = [set(where_from(source.batch(s, 0, 200), "support")[..., 0].flatten().tolist()) for s in CLASSES]
    assert [len(each) for each in seen] == list(CLASSES.values())
    assert len(set.union(*seen)) == sum(CLASSES.values())


def test_classes_and_images_are_uniform() -> None:
    batch = Numbered(way=4, shot=2, query=1).batch("train", 0, 3000)
    for part in ("support", "query"):
        found = where_from(batch, part)
        # The label says nothing of the class; the place in the support set nothing of the label.
        for label in range(4):
            kinds = found[..., 0][getattr(batch, part).y == label]
            assert stats.chisquare(torch.bincount(kinds, minlength=12).numpy()).pvalue > 1e-3
        assert stats.chisquare(torch.bincount(found[..., 1].flatten(), minlength=8).numpy()).pvalue > 1e-3
    first_label = torch.bincount(batch.support.y[:, 0], minlength=4)
    assert stats.chisquare(first_label.numpy()).pvalue > 1e-3


def test_an_episode_is_the_same_in_any_batch_and_leaves_the_global_generator_alone() -> None:
    source = Numbered(way=4, shot=2, query=1, seed=3)
    state = torch.get_rng_state()
    whole = source.batch("test", 5, 10)
    alone = Numbered(way=4, shot=2, query=1, seed=3).batch("test", 11, 1)
    assert torch.equal(whole.support.x[6:7], alone.support.x)
    assert torch.equal(whole.query.y[6:7], alone.query.y)
    assert torch.equal(state, torch.get_rng_state())


def test_other_shots_leave_classes_and_query_images_alone() -> None:
    few, many = (Numbered(way=4, shot=shot, query=2).batch("test", 0, 5) for shot in (1, 5))
    assert torch.equal(few.query.x, many.query.x)


def test_training_may_have_other_shots() -> None:
    source = Numbered(way=3, shot=1, query=2, train_shot=5)
    assert len(source.batch("train", 0, 1).support) == 15
    assert len(source.batch("test", 0, 1).support) == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"way": 4, "shot": 6, "query": 3}, "shot=6"),
        ({"way": 4, "shot": 1, "query": 1, "train_shot": 8}, "train_shot=8"),
        ({"way": 8, "shot": 1, "query": 1}, "way=8"),
    ],
)
def test_more_than_the_data_has_is_an_error_that_names_the_argument(
    arguments: dict[str, int], named: str
) -> None:
    with pytest.raises(ConfigError, match=rf"^{named}.*: give "):  # in Python's words
        Numbered(**arguments)
    with pytest.raises(ConfigError, match=rf"^data\.{named}.*: type data\."), with_keys():
        Numbered(**arguments)


def test_training_episodes_may_have_other_sizes() -> None:
    source = Numbered(way=3, shot=1, query=2, train_way=10, train_shot=2, train_query=4)
    for split, way, shot, query in (("train", 10, 2, 4), ("validation", 3, 1, 2), ("test", 3, 1, 2)):
        batch = source.batch(split, 0, 2)
        assert batch.info["class"].shape == (2, way)
        assert (len(batch.support), len(batch.query)) == (way * shot, way * query)
        for t in range(2):
            assert batch.query.y[t].bincount().tolist() == [query] * way
    assert (source.output_size, source.training_output_size) == (3, 10)
    same = Numbered(way=3, shot=1, query=2).batch("test", 0, 2)
    assert torch.equal(same.support.x, source.batch("test", 0, 2).support.x)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"train_way": 13},
            "data.train_way=13: the train split has 12 classes: type data.train_way=12 or less",
        ),
        ({"train_query": 8}, "data.train_shot=1 and data.train_query=8 need 9 images a class; there are 8"),
    ],
)
def test_training_episodes_that_are_too_large_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as raised, with_keys():
        Numbered(way=3, shot=1, query=2, **sizes)
    assert str(raised.value).startswith(message)
