"""Images, labels and tasks as users hand them over: taken where it is clear, else refused in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.tasks import BinaryClassification, Examples, Sinusoid, Tasks
from metarun.tasks.episodes import episodes, first_episodes
from metarun.tasks.images.class_episodes import ClassEpisodes

SHAPE = (4, 5, 2, 3)


def grey(seed: int = 0) -> Tensor:
    return torch.randint(256, SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


class Loaded(ClassEpisodes):
    images_per_class = 5
    input_shape = (2, 3)

    def __init__(self, given: Any) -> None:
        super().__init__(way=2, shot=1, query=2)
        self.given = given

    def classes(self, split: str) -> int:
        return {"train": 4}.get(split, 4)

    def load(self) -> Any:
        if isinstance(self.given, Exception):
            raise self.given
        if isinstance(self.given, dict):
            return self.given
        return dict.fromkeys(("train", "validation", "test"), self.given)


@pytest.mark.parametrize(
    "given",
    [
        grey().float() / 255,
        grey().double() / 255,
        grey().numpy(),
        grey().float().numpy() / 255,
        grey().tolist() and np.array(grey().tolist(), dtype=np.uint8)[:, :, ::1],
        grey().numpy()[:, ::-1][:, ::-1],
    ],
    ids=["float32", "float64", "numpy uint8", "numpy float", "array of lists", "strides"],
)
def test_the_same_images_make_the_same_episodes(given: Any) -> None:
    expected, found = (Loaded(each).batch("train", 3, 2) for each in (grey(), given))
    assert torch.allclose(found.support.x, expected.support.x, atol=1e-7)
    assert torch.equal(found.query.y, expected.query.y)


def test_black_and_white_may_be_booleans() -> None:
    assert Loaded(grey() > 127).batch("train", 0, 1).support.x.unique().tolist() == [0, 1]


ones = torch.ones(SHAPE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ones * 255,
            r"Loaded.load: train is float32 \(4, 5, 2, 3\) from 255 to 255: expected uint8",
        ),
        (
            ones - 1.5,
            r"is float32 \(4, 5, 2, 3\) from -0.5 to -0.5: expected uint8 from 0 to 255, or floats",
        ),
        (ones / 0, r"is float32 \(4, 5, 2, 3\) from inf to inf: expected uint8"),
        (ones * torch.nan, r"is float32 \(4, 5, 2, 3\) from nan to nan: expected uint8"),
        (ones.to(torch.int8) - 100, r"is int8 \(4, 5, 2, 3\) from -99 to -99: expected uint8"),
        (ones.long() * 200, r"is int64 \(4, 5, 2, 3\) from 200 to 200: expected uint8"),
        (ones.to(torch.uint8), r"is uint8 \(4, 5, 2, 3\) from 1 to 1, but 255 stands for 1: multiply by 255"),
        (ones[:, :4], r"Loaded.load: train has shape \(4, 4, 2, 3\), expected \(4, 5, 2, 3\)"),
        (
            [[1, 2], [3]],
            r"Loaded.load: train is not an array of numbers \(.*\): expected the shape \(4, 5, 2, 3\)",
        ),
        (np.array(["a"]), r"Loaded.load: train is not an array of numbers"),
        (None, r"Loaded.load: train is not an array of numbers"),
        (
            ones.to(torch.uint16),
            r"train is uint16 \(4, 5, 2, 3\): expected uint8 from 0 to 255, or floats from 0 to 1",
        ),
        (
            ones.to(torch.complex64),
            r"train is complex64 \(4, 5, 2, 3\): expected uint8 from 0 to 255, or floats",
        ),
        (
            {"train": grey(), "test": grey()},
            r"Loaded.load returns \['train', 'test'\], expected a dict of train, valida",
        ),
        ({}, r"Loaded.load returns \[\], expected a dict of train, validation, test"),
        (KeyError("letters"), r"Loaded.load fails: KeyError: 'letters' \(test_given.py, line \d+\)"),
    ],
)
def test_images_that_may_mean_anything_are_one_line(given: Any, message: str) -> None:
    with pytest.raises(MetarunError, match=message) as caught:
        Loaded(given).prepare(torch.device("cpu"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_split_that_is_no_dict_is_named() -> None:
    source = Loaded(grey())
    source.load = lambda: [grey()]  # type: ignore[method-assign, assignment]
    with pytest.raises(MetarunError, match=r"Loaded.load returns list, expected a dict of"):
        source.prepare(torch.device("cpu"))


class Relabelled(BinaryClassification):
    def __init__(self, change: Any, **options: Any) -> None:
        super().__init__(shot=2, query=2, **options)
        self.change = change

    def batch(self, split: Any, first_episode: int, count: int) -> Tasks:
        made = super().batch(split, first_episode, count)
        return self.change(made)


def with_labels(change: Any) -> Any:
    def changed(batch: Tasks) -> Tasks:
        support, query = (Examples(each.x, change(each.y)) for each in (batch.support, batch.query))
        return Tasks(support, query)

    return changed


@pytest.mark.parametrize(
    "kind", [torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64, torch.int16]
)
@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_labels_of_any_type_are_taken(kind: torch.dtype, loss: Any) -> None:
    expected = episodes(Relabelled(lambda batch: batch, loss=loss), "train", 0, 3)
    found = episodes(Relabelled(with_labels(lambda y: y.to(kind)), loss=loss), "train", 0, 3)
    assert found.support.y.dtype == torch.int64
    assert torch.equal(found.support.y, expected.support.y)
    assert torch.equal(found.query.y, expected.query.y)


class Integers(Sinusoid):
    def examples(self, draws: Any, task: Any, n: int) -> tuple[Tensor, Tensor]:
        x, y = super().examples(draws, task, n)
        return x, y.round().to(torch.int32)


def test_whole_numbers_of_a_formula_stay_whole() -> None:
    assert episodes(Integers(shot=2, query=2), "train", 0, 1).support.y.dtype == torch.int64


def on_support(**changes: Any) -> Any:
    return lambda batch: replace(
        batch, support=Examples(**({"x": batch.support.x, "y": batch.support.y} | changes))
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_labels(lambda y: y + 0.5), r"Relabelled.batch: labels are float32 and not whole numbers"),
        (
            with_labels(lambda y: y + 1),
            r"Relabelled.batch: test support: labels from 1 to 2, expected 0 to 1",
        ),
        (with_labels(lambda y: y - 1), r"labels from -1 to 0, expected 0 to 1"),
        (
            with_labels(lambda y: y[:, :-1]),
            r"2 tasks have x \(2, 4, 2\) float32 and y \(2, 3\) int64, expected x \[2, n",
        ),
        (on_support(x=torch.zeros(2, 4, 3)), r"x \(2, 4, 3\) float32 and y .*, but input_shape is \(2,\)"),
        (
            on_support(x=torch.zeros(2, 4, 2).double()),
            r"Relabelled.batch: test tasks are torch.float64, but dtype= is torch.float32",
        ),
        (on_support(x=torch.full((2, 4, 2), torch.nan)), r"contain NaN or infinite numbers"),
        (on_support(x=torch.zeros(3, 4, 2), y=torch.zeros(3, 4).long()), r"2 tasks have x \(3, 4, 2\)"),
        (
            with_labels(lambda y: torch.nn.functional.one_hot(y, 2)),
            r"expected labels \[2, n\], one class per example",
        ),
        (lambda batch: batch.nothing, r"Relabelled.batch fails on the test split: AttributeError: .*nothing"),
        ({}.get, r"Relabelled.batch fails on the test split"),
    ],
)
def test_tasks_of_another_form_are_one_line(change: Any, message: str) -> None:
    with pytest.raises(MetarunError, match=message) as caught:
        first_episodes(Relabelled(change), "test", torch.float32)
    assert len(str(caught.value).splitlines()) == 1


def test_later_episodes_are_looked_at_too() -> None:
    class Later(BinaryClassification):
        def batch(self, split: Any, first_episode: int, count: int) -> Tasks:
            made = super().batch(split, first_episode, count)
            return made if first_episode < 2 else with_labels(lambda y: y + 1)(made)

    source = Later(shot=2, query=2)
    episodes(source, "train", 0, 2)
    with pytest.raises(
        MetarunError, match=r"Later.batch: train support: labels from 1 to 2, expected 0 to 1"
    ):
        episodes(source, "train", 2, 2)


def test_a_rounding_error_above_one_is_none() -> None:
    images = torch.ones(SHAPE) * (1 + 1e-6)
    assert Loaded(images).batch("train", 0, 1).support.x.max() >= 1
