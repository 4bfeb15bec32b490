"""The table of a sweep: groups over seeds, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
import statistics
from pathlib import Path

import pytest

from metarun.sweeps.directory import Job
from metarun.sweeps.table import Group, Outcome, as_groups, grouped, table, write
from metarun.tasks.metrics import LOSS


def outcome(number: int, overrides: list[str], loss: float | None, error: str | None = None) -> Outcome:
    scores = {} if loss is None else {"loss": (loss, 0.25)}
    status = "finished" if loss is not None else "failed"
    job = Job(number, tuple(overrides), Path(str(number)))
    return Outcome(job, status, scores, None, error, {"loss": LOSS})


JOBS = [
    outcome(0, ["algo=maml", "seed=0", "train.steps=5"], 1.0),
    outcome(1, ["algo=maml", "seed=1", "train.steps=5"], 2.0),
    outcome(2, ["algo=maml", "seed=2", "train.steps=5"], 6.0),
    outcome(3, ["algo=metasgd", "seed=0", "train.steps=5"], 4.0),
    outcome(4, ["algo=metasgd", "seed=1", "train.steps=5"], None, "it broke"),
]


def rows(outcomes: list[Outcome]) -> list[Group]:
    return as_groups(grouped(outcomes))


def test_groups_differ_in_all_that_differs_but_the_seed() -> None:
    first, second = rows(JOBS)
    assert first.choices == {"algo": "maml"}
    assert [each.job.number for each in second.outcomes] == [3, 4]
    # (1 + 2 + 6) / 3 = 3; deviations −2, −1, 3: squares 14, over n − 1 = 2.
    assert first.mean_and_spread("loss") == (3.0, pytest.approx(7**0.5))
    assert second.mean_and_spread("loss") == (4.0, 0.25)  # one seed: its interval over tasks


def test_the_table_says_what_is_not_finished() -> None:
    lines = table(rows(JOBS)).splitlines()
    assert lines[0] == "test: mean ± standard deviation over seeds"
    assert lines[3].split() == ["maml", "3.0000", "±", "2.6458", "3/3"]
    assert lines[4].split() == ["metasgd", "4.0000", "1/2,", "failed:", "4"]  # no spread of one
    alone = table(rows([JOBS[0], JOBS[3]])).splitlines()
    assert alone[0] == "test: mean ± 95 % confidence interval over tasks"


def test_a_sweep_over_seeds_alone_is_one_row() -> None:
    (group,) = rows(JOBS[:3])
    assert group.choices == {}
    assert table([group]).splitlines()[3].split() == ["3.0000", "±", "2.6458", "3/3"]


def test_drawn_numbers_are_shortened_for_the_eye_only(tmp_path: Path) -> None:
    jobs = [outcome(0, ["inner.lr=0.04430375245218265"], 1.0), outcome(1, ["inner.lr=0.1"], 2.0)]
    assert "0.0443 " in table(rows(jobs))
    write(tmp_path, rows(jobs))
    assert "0.04430375245218265" in (tmp_path / "table.csv").read_text()


def test_the_trials_of_a_search_have_a_row_each(tmp_path: Path) -> None:
    twice = [outcome(0, ["inner.steps=1"], 1.0), outcome(1, ["inner.steps=1"], 3.0)]
    alone = as_groups([[each] for each in twice])
    assert table(alone).splitlines()[0] == "test: mean ± 95 % confidence interval over tasks"
    assert [group.mean_and_spread("loss") for group in alone] == [(1.0, 0.25), (3.0, 0.25)]


def test_one_test_task_has_no_interval(tmp_path: Path) -> None:
    results = {
        "final": {"loss": {"mean": 1.0, "ci95": None}},
        "curve": [{"loss": {"mean": 1.0, "ci95": None}}],
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    (tmp_path / "config.yaml").write_text("seed: 0")
    found = Outcome.read(Job(0, (), tmp_path))
    assert table(rows([found])).splitlines()[-1].split() == ["1.0000", "1/1"]


def test_csv_and_json_hold_the_same(tmp_path: Path) -> None:
    write(tmp_path, rows(JOBS), {"best": 3})
    with (tmp_path / "table.csv").open() as file:
        groups = list(csv.DictReader(file))
    assert [(g["algo"], g["finished"], g["jobs"]) for g in groups] == [
        ("maml", "3", "3"),
        ("metasgd", "1", "2"),
    ]
    assert float(groups[0]["loss_std"]) == pytest.approx(statistics.stdev([1, 2, 6]))
    assert (groups[1]["loss_std"], groups[1]["loss_ci95"]) == ("", "0.25")
    with (tmp_path / "jobs.csv").open() as file:
        jobs = list(csv.DictReader(file))
    assert [job["loss_mean"] for job in jobs] == ["1.0", "2.0", "6.0", "4.0", ""]
    assert jobs[4] | {"status": "failed", "error": "it broke", "seed": "1"} == jobs[4]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["best"] == 3
    assert [group["loss_mean"] for group in content["groups"]] == [3.0, 4.0]
    assert [job["job"] for job in content["jobs"]] == [0, 1, 2, 3, 4]
