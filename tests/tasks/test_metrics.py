"""Losses and metrics of each task, against numbers worked out by hand and against torch, task by task."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from metarun.tasks import metrics


def test_mean_squared_error_by_hand() -> None:
    predictions = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]])
    targets = torch.tensor([[[1.0], [4.0]], [[3.0], [-1.0]]])
    assert metrics.mean_squared_error(predictions, targets).tolist() == [2.0, 5.0]


def test_cross_entropies_are_torchs_of_each_task() -> None:
    logits = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(7).remainder(4).expand(3, 7)
    found = metrics.cross_entropy(logits, labels)
    assert found.tolist() == pytest.approx(
        [F.cross_entropy(*task).item() for task in zip(logits, labels, strict=True)]
    )
    binary = metrics.binary_cross_entropy(logits[..., :1], labels % 2)
    expected = [
        F.binary_cross_entropy_with_logits(z[:, 0], y.float()).item()
        for z, y in zip(logits, labels % 2, strict=True)
    ]
    assert binary.tolist() == pytest.approx(expected)


def test_accuracies_by_hand() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]])
    assert metrics.accuracy(logits, torch.tensor([[0, 1], [1, 0]])).tolist() == [0.5, 1.0]
    single = torch.tensor([[[0.3], [-0.1], [2.0], [-5.0]]])
    assert metrics.binary_accuracy(single, torch.tensor([[1, 1, 0, 0]])).tolist() == [0.5]


def test_label_smoothing_is_torchs() -> None:
    logits = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5).remainder(3).expand(2, 5)
    found = metrics.cross_entropy(logits, labels, smoothing=0.1)
    expected = [
        F.cross_entropy(z, y, label_smoothing=0.1).item() for z, y in zip(logits, labels, strict=True)
    ]
    assert found.tolist() == pytest.approx(expected)


def test_the_calibration_error_is_that_of_a_loop_over_bins() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, 50, 3, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (4, 50), generator=generator)
    mask = torch.rand(4, 50, generator=generator) < 0.8
    confidence, predicted = logits.softmax(2).max(2)
    for padded in (None, mask):
        parts = metrics.calibration_gaps(logits, labels, padded)
        for t in range(4):
            counts = torch.ones(50, dtype=torch.bool) if padded is None else mask[t]
            c, correct = confidence[t][counts], (predicted == labels)[t][counts].double()
            error = 0.0
            for low in range(15):
                inside = (c > low / 15) & (c <= (low + 1) / 15)
                if inside.any():
                    error += inside.double().mean() * (correct[inside].mean() - c[inside].mean()).abs()
            assert parts[t].abs().sum().item() == pytest.approx(float(error))
    certain = torch.tensor([[[50.0, 0.0], [50.0, 0.0]]])
    assert metrics.calibration_gaps(certain, torch.tensor([[0, 1]])).abs().sum().item() == pytest.approx(0.5)
