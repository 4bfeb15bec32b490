"""MixUp and CutMix against loops that are written out, and what is learned from shares of classes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch.nn import functional as F
from toy_images import Blobs

from metarun.errors import ConfigError
from metarun.tasks import Examples, Split
from metarun.tasks.draws import Draws
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.mixing import mixed
from metarun.tasks.metrics import accuracy, calibration_gaps, cross_entropy

T, N, CLASSES = 3, 40, 7


def examples(height: int = 9, width: int = 12) -> Examples:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(T, N, 3, height, width, generator=generator, dtype=torch.float64)
    return Examples(x, torch.randint(CLASSES, (T, N), generator=generator))


@pytest.mark.parametrize("concentration", [1, 4])
def test_mixup_is_a_weighted_mean_of_two_images_and_their_labels(concentration: int) -> None:
    before = examples()
    after = mixed(before, CLASSES, ["mixup"], concentration, Draws(0, 5, 0, T))
    again = Draws(0, 5, 0, T)
    partner, uniform = again.choose(N, N), again.uniform(N, 2, concentration)
    shares = []
    for t in range(T):
        for i in range(N):
            first, second = (-sum(math.log1p(-u) for u in uniform[t, i, k].tolist()) for k in range(2))
            share, j = first / (first + second), int(partner[t, i])
            shares.append(share)
            x = share * before.x[t, i] + (1 - share) * before.x[t, j]
            y = torch.zeros(CLASSES, dtype=torch.float64)
            y[before.y[t, i]] += share
            y[before.y[t, j]] += 1 - share
            torch.testing.assert_close(after.x[t, i], x)
            torch.testing.assert_close(after.y[t, i], y)
    assert kstest(shares, "beta", (concentration, concentration)).pvalue > 1e-3


def test_cutmix_puts_a_box_of_another_image_in_and_counts_its_pixels() -> None:
    before = examples()
    after = mixed(before, CLASSES, ["cutmix"], 1, Draws(0, 5, 0, T))
    partner = Draws(0, 5, 0, T).choose(N, N)
    areas = []
    for t in range(T):
        for i in range(N):
            j = int(partner[t, i])
            same = (after.x[t, i] == before.x[t, i]).all(0)
            assert torch.equal(after.x[t, i][:, ~same], before.x[t, j][:, ~same])
            if i == j:
                continue
            cut = (~same).nonzero()
            if len(cut):  # one box
                (top, left), (bottom, right) = cut.amin(0).tolist(), cut.amax(0).tolist()
                assert len(cut) == (bottom - top + 1) * (right - left + 1)
            y = torch.zeros(CLASSES, dtype=torch.float64)
            y[before.y[t, i]] += 1 - len(cut) / same.numel()
            y[before.y[t, j]] += len(cut) / same.numel()
            torch.testing.assert_close(after.y[t, i], y)
            areas.append(len(cut) / same.numel())
    assert min(areas) < 0.05
    assert max(areas) > 0.6


def test_with_both_about_half_get_each_and_a_batch_depends_on_itself_alone() -> None:
    before = examples()
    after = mixed(before, CLASSES, ["mixup", "cutmix"], 1, Draws(0, 5, 2, T))
    is_cut = (after.x[..., None] == before.x.unsqueeze(-1)).flatten(2).double().mean(2) > 0.02
    assert 0.3 < is_cut.double().mean() < 0.7
    one = mixed(Examples(before.x[1:2], before.y[1:2]), CLASSES, ["mixup", "cutmix"], 1, Draws(0, 5, 3, 1))
    assert torch.equal(one.x[0], after.x[1])
    assert torch.equal(one.y[0], after.y[1])


def test_scores_take_shares_of_classes() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(T, N, CLASSES, generator=generator, dtype=torch.float64)
    labels = torch.randint(CLASSES, (T, N), generator=generator)
    shares = torch.rand(T, N, CLASSES, generator=generator, dtype=torch.float64).softmax(2)
    expected = -(shares * logits.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(cross_entropy(logits, shares), expected)
    hard = F.one_hot(labels, CLASSES).double()
    for smoothing in (0.0, 0.1):
        found = cross_entropy(logits, hard, smoothing=smoothing)
        torch.testing.assert_close(found, cross_entropy(logits, labels, smoothing=smoothing))
    assert torch.equal(accuracy(logits, hard), accuracy(logits, labels))
    assert torch.equal(calibration_gaps(logits, hard), calibration_gaps(logits, labels))


class Pictures(Blobs):
    input_shape = (1, 2, 5)

    def load(self) -> dict[Split, torch.Tensor]:
        return {split: x.view(*x.shape[:2], 1, 2, 5) for split, x in super().load().items()}


def made(**given: Any) -> ClassEpisodes:
    return Pictures(way=3, shot=1, query=2, **given)


def test_training_batches_alone_are_mixed() -> None:
    plain = made(train_batch=16)
    source = made(train_batch=16, train_augment=["mixup"], train_mixing=2)
    tasks = source.batch("train", 4, 2)
    assert tasks.query.y.shape == (2, 16, 12)
    torch.testing.assert_close(tasks.query.y.sum(2), torch.ones(2, 16))
    assert torch.equal(source.batch("train", 5, 1).query.x[0], tasks.query.x[1])
    assert torch.equal(source.batch("test", 0, 2).query.x, plain.batch("test", 0, 2).query.x)
    with pytest.raises(ConfigError, match=r"train_augment=\['mixup'\]: mixup is for mini-batches"):
        made(train_augment=["mixup"])
    with pytest.raises(ConfigError, match=r"train_mixing=3 has no effect without mixup or cutmix"):
        made(train_batch=16, train_mixing=3)
