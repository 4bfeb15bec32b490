"""The benchmark: every side computes the same meta-gradient, and what is written is what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from metarun.bench import measure, peers
from metarun.bench.cases import CASES, make_work

AGREE = ["sinusoid-5", "sinusoid-5-first-order", "sinusoid-5-metasgd", "conv4-5q", "conv4-5q-first-order"]


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_work(case: str) -> None:
    work = make_work(case, torch.device("cpu"), tasks=2)
    assert len(work.batch) == 2
    assert work.engine.chunk >= 1


@pytest.mark.parametrize("case", AGREE)
def test_the_sides_agree_except_where_functorch_is_wrong(case: str) -> None:
    work = make_work(case, torch.device("cpu"), tasks=1)
    found = peers.peers(work)
    assert {"loop", "nested"} <= found.keys()
    assert ("higher" in found) == ("first-order" not in case)
    for name, peer in found.items():
        hazard = name == "nested" and "conv4" in case and "first-order" not in case
        assert measure.is_the_same(measure.relative_error(case, peer)) != hazard, name


def test_a_wrong_gradient_is_noticed() -> None:
    def wrong(work) -> None:
        peers.per_task_loop(work)
        next(work.learner.parameters()).grad[0, 0] += 1e-5

    assert not measure.is_the_same(measure.relative_error("sinusoid-1", wrong))


def test_work_is_the_published_size() -> None:
    work = make_work("conv4-75q", torch.device("cpu"))
    assert work.batch.support.x.shape == (32, 5, 1, 28, 28)
    assert work.batch.query.x.shape == (32, 75, 1, 28, 28)
    assert make_work("sinusoid-5", torch.device("cpu")).batch.support.x.shape == (25, 10, 1)


def test_the_command_writes_a_row_for_each_peer(metarun, tmp_path: Path) -> None:
    done = metarun("bench", "--only", "sinusoid-1", "--seconds", "0.1", "--json", "rows.json")
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["case"], row["peer"]) for row in rows] == [
        ("sinusoid-1", "loop"),
        ("sinusoid-1", "nested"),
        ("sinusoid-1", "higher"),
    ]
    for row in rows:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["metarun_ms"])
        assert row["peer_peak_bytes"] >= 0
        assert f"{row['metarun_ms']:.1f}" in done.stdout
        assert row["torch"] == torch.__version__


def test_a_case_or_device_that_is_not_there_is_one_line(metarun) -> None:
    for arguments, message in {
        ("--only", "sinusoid"): "metarun: --only sinusoid: there is no such case; did you mean sinusoid-",
        ("--device", "cuda:99"): "metarun: device=cuda:99: ",
        ("--seconds", "x"): "metarun: argument --seconds: invalid float value",
    }.items():
        done = metarun("bench", *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
