"""metarun runs: what there is below a folder, read from files alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from own_runs import trained

import metarun
from metarun.reports.runs import age
from metarun.runs.holding import held
from metarun.runs.index import listing
from metarun.runs.summary import Summary, is_held, summary


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = trained(tmp_path_factory.mktemp("one") / "run", "algo=metasgd", "seed=3", "model.hidden=[4]")
    shutil.rmtree(folder / "checkpoints")
    content = json.loads((folder / "manifest.json").read_text())
    content |= {"choices": {"algo": "metasgd", "data": "sinusoid"}, "command": "metarun", "seed": 3}
    (folder / "manifest.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def folder(one: Path, tmp_path: Path) -> Path:
    """Runs in every state, and a sweep with one job of two."""
    root = tmp_path / "outputs"
    for name in ("a/finished", "a/interrupted", "b/failed", "b/damaged", "sweep/0"):
        shutil.copytree(one, root / name)
    for name in ("a/interrupted", "b/failed"):
        (root / name / "results.json").unlink()
    (root / "b/failed/error.txt").write_text("the loss is \x1b[31minf\nTraceback …\n")
    (root / "b/damaged/manifest.json").write_text("{")
    (root / "sweep/sweep.json").write_text(json.dumps({"kind": "grid", "jobs": [["seed=0"], ["seed=1"]]}))
    return root


def states(root: Path) -> dict[str, str]:
    return {str(Path(run.path).relative_to(root)): run.state for run in listing(root)}


def test_the_state_of_every_run(folder: Path) -> None:
    expected = {
        "a/finished": "finished",
        "a/interrupted": "interrupted",
        "b/damaged": "damaged",
        "b/failed": "failed",
        "sweep/0": "finished",
    }
    assert states(folder) == expected
    with held(folder / "a/interrupted"):
        assert states(folder) == {**expected, "a/interrupted": "running"}
        assert is_held(folder / "a/interrupted")
    assert states(folder) == expected
    (sweep,) = listing(folder).sweeps
    assert (sweep.total, len(sweep.jobs), sweep.state) == (2, 1, "interrupted")
    with held(folder / "sweep"):
        assert listing(folder).sweeps[0].state == "running"
    shutil.copytree(folder / "sweep/0", folder / "sweep/1")
    assert listing(folder).sweeps[0].state == "finished"
    (folder / "sweep/1/results.json").unlink()
    (folder / "sweep/1/error.txt").write_text("no\n")
    assert listing(folder).sweeps[0].state == "failed"


def test_a_summary_says_what_the_files_say(one: Path) -> None:
    run = metarun.Run(one)
    found = summary(one, 0.0)
    results = run.results
    assert results is not None
    assert (found.choices["algo"], found.seed, found.step, found.steps) == ("metasgd", 3, 2, 2)
    assert found.metric == {"name": "loss", "higher_is_better": False, "percent": False}
    assert found.test == (results["final"]["loss"]["mean"], results["final"]["loss"]["ci95"])
    validated = [row["loss"] for row in run.metrics if row["split"] == "validation"]
    assert (found.last, found.best) == (validated[-1], min(validated))
    assert Summary.of(json.loads(json.dumps(found.plain()))) == found


def test_the_best_is_the_highest_where_higher_is_better(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(one, run)
    (run / "results.json").unlink()
    measures = [
        {"name": "loss", "higher_is_better": False, "percent": False, "selects": True},
        {"name": "gap", "higher_is_better": False, "percent": True, "selects": False},
        {"name": "accuracy", "higher_is_better": True, "percent": True, "selects": True},
    ]
    (run / "inputs.json").write_text(json.dumps({"measures": measures}))
    rows = [
        {"step": step, "split": split, "loss": 1.0, "accuracy": accuracy}
        for step, split, accuracy in ((1, "train", 0.1), (2, "validation", 0.7), (4, "validation", 0.5))
    ]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (run / "metrics.jsonl").write_text(f'{lines}{{"step": 9, "spl')  # it is being written
    found = summary(run, 0.0)
    assert (found.step, found.last, found.best, found.metric["name"]) == (4, 0.5, 0.7, "accuracy")
    (run / "metrics.jsonl").write_text(lines.splitlines()[0] + "\n")
    assert (summary(run, 0.0).last, summary(run, 0.0).best) == (0.1, None)


def test_an_older_run_is_named_by_its_command_or_its_classes(one: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(one, run)
    (run / "manifest.json").write_text(json.dumps({"command": "metarun data=gp +experiment=x inner.lr=1"}))
    found = summary(run, 0.0)
    assert found.choices == {"algo": "gradientadaptation", "data": "gp", "experiment": "x"}
    assert found.seed is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("manifest.json", "[]"),
        ("manifest.json", '{"choices": 3}'),
        ("results.json", '{"final": {"loss": 3}}'),
        ("results.json", "{}{"),
        ("metrics.jsonl", "[1]}\n"),
        ("metrics.jsonl", '{"step": "x", "split": "train"}\n'),
        ("inputs.json", '{"measures": [3, 4]}'),
        ("config.yaml", "\udcff"),
    ],
)
def test_a_damaged_file_concerns_its_run_alone(folder: Path, name: str, content: str) -> None:
    place = folder / ("a/interrupted" if name == "inputs.json" else "a/finished")
    (place / name).write_text(content, errors="surrogateescape")
    found = summary(place, 0.0)
    assert found.state == "damaged"
    assert found.error.startswith(f"{name} holds something else than metarun writes")
    assert len(states(folder)) == 5


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(folder: Path) -> None:
    (folder / "a/finished/metrics.jsonl").unlink()
    os.mkfifo(folder / "a/finished/metrics.jsonl")
    assert states(folder)["a/finished"] == "damaged"


def test_only_what_has_changed_is_read_again(folder: Path, cache: Path) -> None:
    read: list[None] = []

    def count() -> int:
        read.clear()
        listing(folder, lambda: read.append(None))
        return len(read)

    assert count() == 5
    assert count() == 0
    (folder / "a/interrupted/error.txt").write_text("now it has failed\n")
    assert count() == 1
    assert states(folder)["a/interrupted"] == "failed"
    shutil.rmtree(folder / "b")
    assert count() == 0
    assert len(states(folder)) == 3
    for content in (
        "{",
        '{"version": 0, "runs": {}}',
        '{"version": 1}',
        "[]",
    ):  # damaged, or of another metarun
        for index in (cache / "runs").iterdir():
            index.write_text(content)
        assert count() == 3
        assert count() == 0


def test_an_index_that_cannot_be_kept_is_said(folder: Path, tmp_path: Path, monkeypatch, logged) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "file"))
    assert len(list(listing(folder))) == 5
    assert any("the index cannot be kept" in line for line in logged)


def test_the_list_in_the_terminal(folder: Path, typed) -> None:
    status, printed, _ = typed("runs")
    assert status == 0
    lines = printed.splitlines()
    rows = {
        line.split()[-1]: line.split()
        for line in lines
        if " outputs/" in line and "metarun resume" not in line
    }
    assert rows["outputs/a/finished"][:6] == ["finished", "metasgd", "sinusoid", "3", "2/2", "loss"]
    assert rows["outputs/sweep"][:5] == ["interrupted", "metasgd", "sinusoid", "2", "1"]
    assert "outputs/sweep/0" not in rows
    assert "outputs/b/failed: the loss is \ufffd[31minf" in lines  # nothing reaches the terminal as it is
    assert "\x1b" not in printed
    assert lines[-3:] == [f"metarun resume outputs/{name}" for name in ("a/interrupted", "b/failed", "sweep")]

    def listed(*words: str) -> list[str]:
        status, printed, said = typed("runs", *words)
        assert status == 0, said
        return [
            line.split()[-1] for line in printed.splitlines() if " outputs/" in line and "resume" not in line
        ]

    assert listed("state=failed") == ["outputs/b/failed"]
    assert listed("outputs/sweep", "algo=meta*") == ["outputs/sweep/0"]
    assert sorted(listed("state=finished,damaged"))[:2] == ["outputs/a/finished", "outputs/b/damaged"]
    assert len(listed("model.hidden=[4]", "seed=3")) == 4  # the config of the damaged one is not read
    assert listed("inner.lr=7") == []
    assert "outputs/sweep/0" in listed("--jobs")
    assert listed("--jobs", "--sort", "path", "--most", "1") == ["outputs/sweep/0"]
    assert listed("--sort", "test")[0] in ("outputs/a/interrupted", "outputs/b/failed", "outputs/b/damaged")
    assert "3 more before these: --most 0 lists all" in typed("runs", "--most", "1")[1]

    content = json.loads(typed("runs", "--json")[1])
    assert {Path(run["path"]).name: run["resume"] for run in content["runs"]} == {
        "finished": None,
        "interrupted": "metarun resume outputs/a/interrupted",
        "failed": "metarun resume outputs/b/failed",
        "damaged": None,
    }
    assert content["sweeps"][0]["jobs"][0]["state"] == "finished"
    assert json.loads(typed("runs", "--json", "state=failed")[1])["sweeps"] == []

    assert typed("runs", "outputs/a", "algo=maml")[1] == "no runs with these filters\n"
    for words, expected in (
        (["nowhere"], "nowhere: there is no such folder; type metarun runs FOLDER"),
        (["state=finshed"], "state=finshed: there is no such state; did you mean finished?"),
        (["--sort", "size"], "choose from"),
        (["--watch", "0"], "--watch 0: expected seconds above 0"),
        (["--watch", "nan"], "--watch nan: expected seconds above 0"),
        (["algos=maml"], "algos=…: no run has such a group; did you mean algo?"),
    ):
        status, _, said = typed("runs", *words)
        assert (status, len(said.splitlines())) == (2, 1)
        assert expected in said


def test_ages() -> None:
    assert [age(seconds) for seconds in (-1, 59, 60, 3599, 7200, 200_000)] == [
        *("0 s", "59 s", "1 min", "59 min", "2 h", "2 d"),
    ]


def test_watching_shows_what_changes_until_ctrl_c(folder: Path, cache: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "metarun", "runs", str(folder), "--watch", "0.1", "--jobs"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "METARUN_CACHE": str(cache)},
    )
    assert process.stdout is not None
    assert process.stderr is not None
    while "interrupted" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    (folder / "a/interrupted/error.txt").write_text("it is out of luck\n")
    while "it is out of luck" not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert said == "metarun: interrupted\n"
