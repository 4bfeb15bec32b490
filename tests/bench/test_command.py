"""`metarun bench`: what is written and printed is what was measured, and mistakes are one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from metarun.bench import plot, rows, startup
from metarun.bench.cases import GROWTH, SOURCES, Growth
from metarun.bench.sides import PEERS
from metarun.bench.tables import tables
from metarun.cli import bench
from metarun.errors import ConfigError, MetarunError

IN_COMMON = {"case", "device", "threads", "processor", "torch", "python"}


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


def test_growth_is_measured_and_drawn(tmp_path: Path, monkeypatch, capsys) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(GROWTH, "growth-steps", Growth([], "steps", (1, 2)))
    picture, written = tmp_path / "growth.png", tmp_path / "rows.json"
    flags = ["--only", "growth-steps", "--seconds", "0.1", "--plot", str(picture), "--json", str(written)]
    bench.main(["bench", *flags])
    found = json.loads(written.read_text())
    assert [(row["case"], row["peer"], row["tasks"], row["steps"]) for row in found] == [
        ("growth-steps", "loop", 25, 1),
        ("growth-steps", "loop", 25, 2),
    ]
    assert all(row["metarun_ms"] > 0 and row["peer_ms"] > 0 for row in found)
    assert picture.read_bytes().startswith(b"\x89PNG")
    header = capsys.readouterr().out.splitlines()[0].split()
    assert header[:4] == ["case", "tasks", "steps", "peer"]


def test_a_line_is_drawn_for_each_side() -> None:
    def row(case: str, peer: str, tasks: int, ours: float, theirs: float) -> rows.Row:
        times = {"ratio": theirs / ours, "metarun_ms": ours, "peer_ms": theirs}
        return {"case": case, "peer": peer, "tasks": tasks, "steps": 1, **times}

    assert plot.lines(
        [
            row("growth-tasks", "loop", 1, 2.0, 3.0),
            row("growth-tasks", "loop", 4, 2.5, 12.0),
            {"case": "growth-tasks", "peer": "higher", "tasks": 4, "steps": 1, "failed": "it died"},
            row("growth-steps", "loop", 25, 7.0, 8.0),
        ],
        "growth-tasks",
    ) == {"metarun": {1: 2.0, 4: 2.5}, "loop": {1: 3.0, 4: 12.0}}


def test_what_the_data_costs(monkeypatch, capsys, tmp_path: Path) -> None:
    for source in ("linear_regression", "binary_classification"):
        monkeypatch.delitem(SOURCES, source)
    monkeypatch.setenv("METARUN_DATA", str(tmp_path))
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    bench.main(["bench", "--only", "data", "--seconds", "0.1", "--json", str(tmp_path / "rows.json")])
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    own = {"source", "tasks", "steps", "episodes_per_second", "episodes_ms", "metarun_ms", "share"}
    assert row.keys() == IN_COMMON | own
    assert row["episodes_per_second"] == pytest.approx(25 / (row["episodes_ms"] / 1e3))
    assert row["share"] == pytest.approx(row["episodes_ms"] / (row["episodes_ms"] + row["metarun_ms"]))
    assert "left out: data of omniglot: it is not in the folder METARUN_DATA" in capsys.readouterr().out


def test_omniglot_is_measured_where_it_is(omniglot_root: Path, shared_cache: Path) -> None:
    few = [*SOURCES["omniglot"], "train.meta_batch=2", "model.filters=4"]
    (row,) = rows.data_path("omniglot", few, "cpu", 0.1)
    assert (row["source"], row["tasks"]) == ("omniglot", 2)
    assert row["episodes_per_second"] > 0


def test_startup_is_in_seconds(monkeypatch) -> None:
    monkeypatch.setattr(startup, "_FEWEST", 1)
    found = startup.startup("cpu", 0)
    assert [row["what"] for row in found] == ["metarun --help", "first meta-step"]
    assert all(row.keys() == IN_COMMON | {"what", "seconds"} and row["seconds"] > 0 for row in found)
    assert "first meta-step" in tables(found)


def test_a_race_that_is_slower_than_it_was_is_an_error(monkeypatch, capsys, tmp_path: Path) -> None:
    common = {"tasks": 25, "steps": 1, **rows.conditions("cpu"), "metarun_ms": 1.0, "peer_ms": 2.0}
    kept = tmp_path / "kept.json"

    def against(now: float, then: float, **other: object) -> str:
        row = {"case": "sinusoid-1", "peer": "loop", **common}
        kept.write_text(json.dumps([{**row, "ratio": then, **other}]))
        monkeypatch.setattr(bench, "compare", lambda *_: [{**row, "error": 0.0, "ratio": now}])
        bench.main(["bench", "--only", "sinusoid-1", "--peer", "loop", "--against", str(kept)])
        return capsys.readouterr().out.splitlines()[-1]

    assert against(8.0, 10.0).split() == ["sinusoid-1", "loop", "8.00", "10.00", "-20%"]
    with pytest.raises(MetarunError, match=r"slower than in .* by more than 25%: sinusoid-1 against loop$"):
        against(7.0, 10.0)
    assert "-30%" in capsys.readouterr().out
    with pytest.raises(MetarunError, match="has no such race on a machine of this kind"):
        against(7.0, 10.0, processor="another")
    kept.write_text("{}")
    for words, expected in (
        (["--against", str(kept)], "expected a file of metarun bench --json"),
        (["--against", str(tmp_path / "none")], "expected a file of metarun bench --json"),
        (["--band", "1.5"], "--band 1.5: expected a fraction"),
    ):
        with pytest.raises(ConfigError, match=expected):
            bench.main(["bench", "--only", "sinusoid-1", *words])


def test_a_command_that_fails_is_not_timed() -> None:
    with pytest.raises(MetarunError, match=r"metarun algo=none failed: metarun: algo=none: there is no"):
        startup.seconds_of("algo=none")


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
    assert "left out: sinusoid-5-first-order: it cannot be computed by higher" in capsys.readouterr().out


def test_an_extra_that_is_missing_is_named_before_anything_is_measured(monkeypatch, tmp_path: Path) -> None:
    for package in ("jax", "matplotlib"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delattr(bench, "compare")
    for flags, message in {
        ("--plot", "g.png"): r"^--plot g.png: matplotlib is not installed: pip install 'metarun\[bench\]'$",
        ("--peer", "jax"): r"^--peer jax: jax is not installed: pip install 'metarun\[bench\]'$",
    }.items():
        with pytest.raises(ConfigError, match=message):
            bench.main(["bench", "--only", "growth-tasks", *flags])


@pytest.mark.parametrize(
    ("flags", "message"),
    {
        ("--only", "sinusoid"): "--only sinusoid: there is no such case; did you mean sinusoid-",
        ("--only", "growth"): "--only growth: there is no such case; did you mean growth-",
        ("--peer", "jaxx"): "--peer jaxx: there is no such peer; did you mean jax?; choose from loop, ",
        ("--device", "cuda:99"): "device=cuda:99: ",
        ("--seconds", "x"): "argument --seconds: invalid float value",
        ("--plot", "g.png"): "--plot g.png draws growth curves: add --only growth-tasks or --only growth-",
        ("--plot", "g.what"): "--plot g.what: unknown file type; choose from ",
    }.items(),
)
def test_what_is_not_there_is_refused(flags: tuple[str, str], message: str) -> None:
    if "--plot" in flags:
        pytest.importorskip("matplotlib")
    with pytest.raises(ConfigError) as raised:
        bench.main(["bench", *flags])
    assert str(raised.value).startswith(message)


def test_a_mistake_is_one_line(metarun) -> None:
    done = metarun("bench", "--only", "sinusoid")
    assert done.returncode == 2
    assert done.stderr.startswith("metarun: --only sinusoid: there is no such case; did you mean sinusoid-")
    assert done.stderr.count("\n") == 1
