"""Random changes of training images."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tasks_numbered import Numbered
from torch import Tensor
from toy_images import Blobs

from metarun.errors import ConfigError
from metarun.tasks.draws import Draws
from metarun.tasks.images.augmentation import augment


def images(channels: int = 3) -> Tensor:
    return torch.rand(6, 40, channels, 12, 10, generator=torch.Generator().manual_seed(0))


def test_half_of_the_images_are_flipped_as_a_whole() -> None:
    x = images()
    flipped = augment(x, ["flip"], Draws(0, 7, 0, 6))
    is_same = (flipped == x).flatten(2).all(2)
    assert ((flipped == x.flip(4)).flatten(2).all(2) ^ is_same).all()
    assert 80 < is_same.sum() < 160


def test_a_crop_is_a_shift_with_zeros_beside_it() -> None:
    x = images()
    cropped = augment(x, ["crop"], Draws(0, 7, 0, 6))
    shifts = set()
    for before, after in zip(x.flatten(0, 1), cropped.flatten(0, 1), strict=True):
        padded = torch.nn.functional.pad(before, (1, 1, 1, 1))
        places = [
            (i, j)
            for i in range(3)
            for j in range(3)
            if torch.equal(padded[:, i : i + 12, j : j + 10], after)
        ]
        assert len(places) == 1
        shifts |= set(places)
    assert len(shifts) == 9


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_stay_within_their_strengths(channels: int) -> None:
    x = torch.full((6, 40, channels, 4, 4), 0.5)
    brighter = augment(x, ["colour"], Draws(0, 7, 0, 6))
    factor = brighter / 0.5  # of a plain grey image contrast and saturation change nothing
    assert factor.min() >= 0.6
    assert factor.max() <= 1.4
    assert factor.flatten(2).std(2).max() < 1e-6
    assert 0.15 < factor[:, :, 0, 0, 0].std() < 0.3
    changed = augment(images(channels), ["colour"], Draws(0, 7, 0, 6))
    assert changed.min() >= 0
    assert changed.max() <= 1


def test_a_change_depends_on_the_task_alone_and_not_on_the_other_changes() -> None:
    x = images()
    whole = augment(x, ["flip", "colour"], Draws(0, 7, 3, 6))
    assert torch.equal(whole[4:], augment(x[4:], ["colour", "flip"], Draws(0, 7, 7, 2)))
    flipped = augment(x, ["flip"], Draws(0, 7, 3, 6))
    assert torch.equal(whole, augment(flipped, ["colour"], Draws(0, 7, 3, 6)))


class Pictures(Numbered):
    input_shape = (1, 1, 2)

    def load(self) -> dict[str, Tensor]:
        return {split: x.view(*x.shape[:2], 1, 1, 2) for split, x in super().load().items()}


def fixed(logits: Tensor, x: Tensor) -> Tensor:
    return logits[:, : x.shape[1]]


@pytest.mark.parametrize("train_batch", [None, 8])
def test_training_images_alone_are_changed_and_their_loss_alone_is_smoothed(train_batch: int | None) -> None:
    keys = {"way": 3, "shot": 2, "query": 4, "train_batch": train_batch}
    plain, source = Pictures(**keys), Pictures(**keys, train_augment=["flip"], train_smoothing=0.1)
    for split in ("train", "validation", "test"):
        before, tasks = plain.batch(split, 2, 3), source.batch(split, 2, 3)
        is_training = split == "train"
        assert torch.equal(before.query.y, tasks.query.y)
        assert torch.equal(before.query.x, tasks.query.x) != is_training
        assert (tasks.scoring.query_loss is not None) == is_training
        logits = torch.randn(*tasks.query.y.shape, 12, generator=torch.Generator().manual_seed(0))
        losses = [each.score(partial(fixed, logits))["loss"] for each in (before, tasks)]
        assert torch.equal(*losses) != is_training
        assert torch.equal(*(each.losses(logits, each.query) for each in (before, tasks)))
    assert torch.equal(source.batch("train", 4, 1).query.x, source.batch("train", 2, 3).query.x[2:])


def test_numbers_that_are_no_image_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"changes images \[channels, height, width\], the data has \[10\]"):
        Blobs(way=3, shot=1, query=1, train_augment=["flip"])
