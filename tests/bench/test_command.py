"""`metarun bench`: what is written and printed is what was measured, and mistakes are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from metarun.bench import rows
from metarun.bench.sides import PEERS
from metarun.commands import bench
from metarun.errors import ConfigError


def test_the_command_writes_a_row_for_each_peer(metarun, tmp_path: Path) -> None:
    peers = ["--peer", "loop", "--peer", "nested"]
    done = metarun("bench", "--only", "sinusoid-1", *peers, "--seconds", "0.1", "--json", "rows.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "rows.json").read_text())
    assert [(row["case"], row["peer"]) for row in written] == [
        ("sinusoid-1", "loop"),
        ("sinusoid-1", "nested"),
    ]
    for row in written:
        assert row["ratio"] == pytest.approx(row["peer_ms"] / row["metarun_ms"])
        assert row["peer_peak_bytes"] >= 0
        assert f"{row['metarun_ms']:.1f}" in done.stdout
        assert row["torch"] == torch.__version__
        assert (row["tasks"], row["steps"]) == (25, 1)


def test_failures_wrong_sides_and_absent_packages_are_named(monkeypatch, capsys) -> None:
    for package in ("jax", "torchopt"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    raced = {"ratio": 2.0, "metarun_ms": 1.5, "peer_ms": 3.0, "peer_peak_bytes": 3 * 2**20}

    def compare(case: str, overrides: list[str], peers: list[str], *conditions: object) -> list[rows.Row]:
        assert peers == [name for name, peer in PEERS.items() if peer.package not in ("jax", "torchopt")]
        found = [{"error": 1e-16, **raced}, {"error": 0.005}, {"error": 0.0, "failed": "it died"}]
        return [{"case": case, "peer": peer, **row} for peer, row in zip(peers, found, strict=False)]

    monkeypatch.setattr(bench, "compare", compare)
    bench.main(["bench", "--only", "sinusoid-1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["sinusoid-1", "loop", "2.00", "1.5", "3.0", "–", "3"]
    assert lines[3].split() == ["sinusoid-1", "nested", "wrong:", "5e-03", "–", "–", "–", "–"]
    assert lines[4].split()[:3] == ["sinusoid-1", "higher", "failed"]
    assert lines[-3] == "sinusoid-1, higher failed: it died"
    assert lines[-1] == "not installed: torchopt, jax - pip install 'metarun[bench]'"


def test_what_no_peer_can_do_is_said(capsys) -> None:
    pytest.importorskip("higher")
    bench.main(["bench", "--only", "sinusoid-5-first-order", "--peer", "higher"])
    assert "left out: sinusoid-5-first-order: it is no work for higher" in capsys.readouterr().out


def test_an_extra_that_is_missing_is_named_before_anything_is_measured(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delattr(bench, "compare")
    with pytest.raises(
        ConfigError, match=r"^--peer jax: jax is not installed: pip install 'metarun\[bench\]'$"
    ):
        bench.main(["bench", "--only", "sinusoid-1", "--peer", "jax"])


@pytest.mark.parametrize(
    ("flags", "message"),
    {
        ("--only", "sinusoid"): "--only sinusoid: there is no such case; did you mean sinusoid-",
        ("--peer", "jaxx"): "--peer jaxx: there is no such peer; did you mean jax?; choose from loop, ",
        ("--device", "cuda:99"): "device=cuda:99: ",
        ("--seconds", "x"): "argument --seconds: invalid float value",
    }.items(),
)
def test_what_is_not_there_is_refused(flags: tuple[str, str], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        bench.main(["bench", *flags])
    assert str(raised.value).startswith(message)


def test_a_mistake_is_one_line(metarun) -> None:
    done = metarun("bench", "--only", "sinusoid")
    assert done.returncode == 2
    assert done.stderr.startswith("metarun: --only sinusoid: there is no such case; did you mean sinusoid-")
    assert done.stderr.count("\n") == 1
