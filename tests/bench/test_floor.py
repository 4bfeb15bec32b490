"""Operations and bytes against what can be counted by hand."""

from __future__ import annotations

import pytest
import torch

from metarun.bench import floor
from metarun.bench.tables import tables


def test_traffic_is_what_is_read_and_written() -> None:
    a, b = torch.ones(10, 10), torch.ones(10, 10)
    with floor.Traffic() as traffic:
        (a.view(100).view(10, 10) + b).t()
    assert traffic.bytes == 3 * 400


def test_operations_of_a_linear_network_by_hand() -> None:
    """One step of y = Wx + b, W [1, 1], on 3 examples, query 4: a product forward and one for dW each, and
    for the exact meta-gradient more."""
    one_step = ["data=linear_regression", "model=linear", "data.shot=3", "data.query=4", "inner.steps=1"]
    first, _ = floor.operations_and_bytes([*one_step, "train.meta_batch=10", "metagradient=first_order"])
    # Forward and dW, 2 n each, for the support and the query set of each of ten tasks.
    assert first == 10 * (2 + 2) * (3 + 4)
    exact, touched = floor.operations_and_bytes([*one_step, "train.meta_batch=10"])
    assert exact > first
    assert touched > 10 * 7 * 4 * 2


def test_every_row_is_compared_with_a_measured_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "CASES", {"tiny": ["model.hidden=[4]", "train.meta_batch=2"]})
    *best, row = floor.floor("cpu", 0.01)
    assert [each["what"] for each in best] == [
        "matrix product, float32",
        "convolution, float32",
        "copied bytes",
    ]
    fastest = max(each["giga_per_second"] for each in best[:2])
    assert row["floor_ms"] == pytest.approx(1e3 * row["gflop"] / fastest)
    assert row["share"] == pytest.approx(row["floor_ms"] / row["metarun_ms"])
    assert "tiny" in tables([*best, row])
