"""The scores of each test task are kept, and tests are compared with them, beside SciPy and by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from own_runs import trained
from scipy import stats
from torch import Tensor

from metarun.errors import ConfigError, MetarunError
from metarun.evaluation.comparison import compare, sides_of
from metarun.evaluation.statistics import difference, holm, interval
from metarun.evaluation.task_scores import TaskScores
from metarun.evaluation.tested import FinishedTest, read_tests
from metarun.runs.directory import Run
from metarun.tasks import Measure, Sinusoid
from metarun.tasks.metrics import LOSS
from metarun.tasks.sketch import are_same, sketch

ACCURACY = Measure("accuracy", higher_is_better=True, percent=True)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_paired_and_unpaired_differences_are_those_of_scipy() -> None:
    first, second = 0.3 + normal(0, 40), normal(1, 40)
    found = difference(first, second, paired=True)
    expected = stats.ttest_rel(first.numpy(), second.numpy())
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert found.effect == pytest.approx(float((first - second).mean() / (first - second).std()))
    assert (found.paired, found.count) == (True, 40)

    other = 2 * normal(2, 25)
    found = difference(first, other, paired=False)
    expected = stats.ttest_ind(first.numpy(), other.numpy(), equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-12)
    assert found.effect == pytest.approx(found.mean / math.sqrt(float(first.var() + other.var()) / 2))
    assert (found.paired, found.count) == (False, 25)


def test_pairs_see_what_the_spread_between_tasks_hides() -> None:
    tasks = 10 * normal(0, 100)
    better = tasks + 0.1 + 0.1 * normal(1, 100)
    assert difference(better, tasks, paired=True).p < 1e-6
    assert difference(better, tasks, paired=False).p > 0.5


def test_differences_without_spread_or_of_too_few_values() -> None:
    ones = torch.ones(5)
    same, other = difference(ones, ones, paired=True), difference(2 * ones, ones, paired=False)
    assert (same.p, same.effect, same.mean) == (1.0, 0.0, 0.0)
    assert (other.p, other.effect, other.low, other.high) == (0.0, math.inf, 1.0, 1.0)
    for values in (ones[:1], torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.inf])):
        assert math.isnan(difference(values, values, paired=True).p)
    assert math.isnan(interval(ones[:1]))


def test_the_interval_over_seeds_is_students() -> None:
    values = normal(3, 4)
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values.numpy()))
    assert interval(values) == pytest.approx((high - low) / 2)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    corrected = holm([0.01, math.nan, 0.02])
    assert corrected[0] == 0.02
    assert math.isnan(corrected[1])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_what_its_stepwise_definition_rejects(ps: list[float]) -> None:
    """Holm 1979: from the smallest on, until one is above level / (m − i + 1)."""
    for level in (0.01, 0.05, 0.2):
        order = sorted(range(len(ps)), key=lambda i: ps[i])
        rejected = set()
        for rank, i in enumerate(order):
            if ps[i] * (len(ps) - rank) > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(holm(ps)) if p <= level} == rejected


def test_a_sketch_tells_tasks_apart_and_not_dtypes_or_chunks() -> None:
    source = Sinusoid(shot=5, query=5, dtype=torch.float64)
    whole = sketch(source.batch("test", 0, 6))
    parts = torch.cat([sketch(source.batch("test", 0, 4)), sketch(source.batch("test", 4, 2))], 1)
    assert torch.equal(whole, parts)
    assert are_same(whole, sketch(Sinusoid(shot=5, query=5).batch("test", 0, 6)))
    for other in (
        Sinusoid(shot=5, query=5, seed=1).batch("test", 0, 6),
        Sinusoid(shot=4, query=5).batch("test", 0, 6),
        source.batch("test", 1, 6),
        source.batch("validation", 0, 6),
        source.batch("test", 0, 5),
    ):
        assert not are_same(whole, sketch(other))


def test_scores_of_tasks_come_back_from_their_file_and_damage_is_said(tmp_path: Path) -> None:
    scores = TaskScores(("loss", "größe"), normal(0, 2, 3, 5), (0, 1, 5), normal(1, 4, 5))
    scores.write(path := tmp_path / "test_tasks.npz")
    again = TaskScores.read(path)
    assert again is not None
    assert (again.names, again.numbers) == (scores.names, scores.numbers)
    assert torch.equal(again.scores, scores.scores)
    assert torch.equal(again.of("größe", 1), scores.scores[1, 1])
    assert torch.equal(again.of("loss"), scores.scores[0, -1])
    with pytest.raises(MetarunError, match="accuracy: there is no such score; choose from loss, größe"):
        again.of("accuracy")
    with pytest.raises(MetarunError, match="2: there is no such step; choose from 0, 1, 5"):
        again.of("loss", 2)
    assert TaskScores.read(tmp_path / "nothing.npz") is None

    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MetarunError, match="is damaged"):
        TaskScores.read(path)
    np.savez(path, names=np.array(["loss"], dtype=object))
    with pytest.raises(MetarunError, match="is damaged"):  # it would run code
        TaskScores.read(path)
    np.savez(path, names=np.array(["loss"]), scores=np.zeros((1, 2, 3)))
    with pytest.raises(MetarunError, match="does not hold the scores of tasks"):
        TaskScores.read(path)
    np.savez(
        path,
        names=np.array(["loss"]),
        scores=np.zeros((1, 2, 3)),
        numbers=np.array([0]),
        sketch=np.zeros((4, 3)),
    )
    with pytest.raises(MetarunError, match="does not hold the scores of tasks"):
        TaskScores.read(path)


def test_arrays_that_would_fill_the_memory_are_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("metarun.runs.arrays._MOST_BYTES", 1000)
    np.savez_compressed(path := tmp_path / "test_tasks.npz", scores=np.zeros(1000))
    assert path.stat().st_size < 1000
    with pytest.raises(MetarunError, match="8,128 bytes when unpacked: expected at most 1,000"):
        TaskScores.read(path)


def made(seed: int, values: Tensor, tasks: int = 0, **config: object) -> FinishedTest:
    """A test whose tasks have these losses."""
    scores = TaskScores(
        ("loss", "accuracy"), torch.stack([values, -values])[:, None], (0,), normal(tasks, 4, len(values))
    )
    measures = {"loss": LOSS, "accuracy": ACCURACY}
    everything = {"seed": seed, "data.seed": seed, **config}
    return FinishedTest(Path(f"run{seed}"), everything, {}, scores, measures)


def test_sides_are_set_ups_and_the_same_run_twice_is_two_sides() -> None:
    values = normal(0, 8)
    tests = [made(0, values, lr=1), made(1, values, lr=1), made(0, values, lr=2), made(0, values, lr=2)]
    sides = sides_of(tests)
    assert [sorted(side.tests) for side in sides] == [[0, 1], [0], [0]]
    assert [side.name for side in sides] == ["run0", "run0", "run0"]  # the label does not tell them apart
    assert [side.name for side in sides_of(tests[:3])] == ["lr=1", "lr=2"]


def test_tasks_are_paired_where_they_are_the_same_and_seeds_where_there_are_three() -> None:
    values = [normal(s, 30) for s in range(3)]
    worse = [value + 1 for value in values]
    one = [made(s, values[s], tasks=s, lr=1) for s in range(3)]
    other = [made(s, worse[s], tasks=s, lr=2) for s in range(3)]

    found = compare([one[0], other[0]])
    (pair,) = found.pairs
    assert (found.unit, found.measure.name) == ("tasks", "accuracy")
    assert (pair.difference.paired, pair.difference.count) == (True, 30)
    assert pair.difference.mean == pytest.approx(1)  # of the accuracy
    assert pair.is_significant

    elsewhere = made(0, worse[0], tasks=7, lr=2)
    (pair,) = compare([one[0], elsewhere], "loss").pairs
    assert (pair.difference.paired, pair.difference.mean) == (False, pytest.approx(-1))

    found = compare([*one, *other], "loss")
    (pair,) = found.pairs
    assert (found.unit, pair.difference.count, pair.difference.paired) == ("seeds", 3, True)
    assert found.estimates[0].mean == pytest.approx(float(torch.cat(values).mean()))
    assert compare([*one, *other], unit="tasks").pairs[0].difference.count == 90
    # Other seeds on the two sides: nothing is paired.
    (pair,) = compare([*one, *other[:2], made(5, worse[2], tasks=5, lr=2)], unit="seeds").pairs
    assert not pair.difference.paired


def test_each_pair_is_corrected_for_all_of_them() -> None:
    tests = [made(0, normal(0, 50) + 0.02 * i * normal(i, 50), lr=i) for i in range(4)]
    found = compare(tests)
    assert len(found.pairs) == 6
    assert [pair.p for pair in found.pairs] == holm([pair.difference.p for pair in found.pairs])


def test_what_cannot_be_compared_is_said(monkeypatch) -> None:
    one, other = made(0, normal(0, 8), lr=1), made(0, normal(1, 8), lr=2)
    with pytest.raises(ConfigError, match="1 set-up to compare: type two runs or more"):
        compare([one])
    with pytest.raises(
        ConfigError, match="--metric f1: not every test has this score; choose from loss, acc"
    ):
        compare([one, other], "f1")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MetarunError, match=r"comparisons need SciPy: pip install 'metarun\[report\]'"):
        compare([one, other])


def test_compare_in_the_terminal(tmp_path: Path, typed) -> None:
    for algo in ("maml", "metasgd"):
        trained(tmp_path / "both" / algo, f"algo={algo}", "train.test_tasks=12", "model.hidden=[4]")
    scores = TaskScores.read(tmp_path / "both" / "maml" / "test_tasks.npz")
    assert scores is not None
    results = Run.open(tmp_path / "both" / "maml").results()
    assert results is not None
    for number, step in enumerate(results["curve"]):
        assert float(scores.of("loss", number).mean()) == step["loss"]["mean"]

    status, printed, _ = typed("compare", "both", "--json", "all.json")
    assert status == 0
    assert "A   " in printed
    assert "12 pairs" in printed
    content = json.loads((tmp_path / "all.json").read_text())
    assert content["pairs"][0]["count"] == 12
    assert content["sides"][0]["mean"] == results["final"]["loss"]["mean"]

    # The same test again is the same to the last bit; another one has a file of its own.
    assert typed("eval", "both/maml")[0] == 0
    (again,) = (tmp_path / "both" / "maml" / "evaluations").glob("*.json")
    kept = TaskScores.read(again.with_suffix(".npz"))
    assert kept is not None
    assert torch.equal(kept.scores, scores.scores)
    status, printed, _ = typed("compare", "both/maml", str(again), "--step", "0", "--metric", "loss")
    assert "test after step 0" in printed
    assert "1.000" in printed  # p

    (tmp_path / "both" / "maml" / "test_tasks.npz").unlink()
    status, _, said = typed("compare", "both")
    assert status == 1
    assert "type metarun eval both/maml, and compare the file that it keeps" in said
    for words, expected in (
        (["nothing"], "nothing holds no finished run"),
        (["both/metasgd"], "1 set-up to compare"),
        (["both/metasgd", "--json", "no/where.json"], "--json no/where.json: expected a file in an"),
        (["both/metasgd/config.yaml"], "holds no finished run"),
        (["both/metasgd", str(again), "--metric", "accuracy"], "--metric accuracy: not every test has"),
        (["both/metasgd", str(again), "--step", "9"], "9: there is no such step; choose from 0, 1"),
    ):
        status, _, said = typed("compare", *words)
        assert status in (1, 2)
        assert expected in said
        assert len(said.splitlines()) == 1


def test_an_unfinished_run_is_said(tmp_path: Path) -> None:
    Run.create(tmp_path / "run", {"seed": 0}, {})
    with pytest.raises(ConfigError, match="is not tested yet: expected a finished run"):
        next(read_tests(tmp_path / "run"))
