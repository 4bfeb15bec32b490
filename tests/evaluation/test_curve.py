"""Means, confidence intervals, and that the tasks of a test never move."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from metarun.engine.executor import Executor
from metarun.engine.settings import Engine
from metarun.evaluation.curve import Curve, Estimate, evaluate, pooled
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import MLP
from metarun.reports.table import curve_table
from metarun.rules import SGD
from metarun.tasks import BinaryClassification, Measure, Metric, Scoring, Sinusoid
from metarun.tasks.metrics import LOSS


def learner(source: Sinusoid, **loop: int) -> GradientAdaptation:
    torch.manual_seed(0)
    return GradientAdaptation(
        model=MLP(input_shape=source.input_shape, output_size=source.output_size, hidden=(8,)),
        rule=SGD(lr=0.01),
        loop=InnerLoop(**{"steps": 2, **loop}),
    ).double()


def by(made: GradientAdaptation, chunk: int, workers: int = 1) -> Executor:
    return Executor(Engine(chunk=chunk, workers=workers), made)


def test_the_interval_is_the_normal_one() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    estimate = Estimate.of(values)
    low, high = stats.norm.interval(0.95, loc=4, scale=stats.sem(values.numpy()))
    assert estimate.mean == 4
    assert estimate.ci95 == pytest.approx((high - low) / 2)
    assert math.isnan(Estimate.of(values[:1]).ci95)


def test_the_interval_covers_the_truth_19_times_of_20() -> None:
    samples = torch.randn(2000, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = sum(abs(e.mean) <= e.ci95 for e in map(Estimate.of, samples))
    assert 0.93 < covered / 2000 < 0.96


def test_any_chunk_size_gives_the_same_curve_and_leaves_the_mode_alone() -> None:
    source = Sinusoid(shot=5, query=5, dtype=torch.float64)
    made = learner(source, test_steps=4)
    whole = evaluate(made, source, "test", 10, by(made, 10))
    assert len(whole.steps) == 5
    assert made.training
    for chunk in (1, 3, 7):
        part = evaluate(made, source, "test", 10, by(made, chunk))
        for a, b in zip(whole.steps, part.steps, strict=True):
            assert a["loss"].mean == pytest.approx(b["loss"].mean, rel=1e-12)
            assert a["loss"].ci95 == pytest.approx(b["loss"].ci95, rel=1e-12)


def test_workers_give_the_same_curve() -> None:
    source = Sinusoid(shot=5, query=5, dtype=torch.float64)
    made = learner(source)
    two, one = by(made, 3, workers=2), by(made, 3)
    assert evaluate(made, source, "test", 10, two) == evaluate(made, source, "test", 10, one)


def test_progress_sees_every_chunk() -> None:
    source = Sinusoid(shot=5, query=5, dtype=torch.float64)
    seen: list[tuple[int, int]] = []

    def progress(chunks, total: int):
        for chunk in chunks:
            steps, _ = chunk
            seen.append((len(steps[0]["loss"]), total))
            yield chunk

    made = learner(source)
    evaluate(made, source, "test", 10, by(made, 4), show=progress)
    assert seen == [(4, 3), (4, 3), (2, 3)]


def test_selected_is_accuracy_where_there_is_one_else_minus_the_loss() -> None:
    regression, classes = Sinusoid(shot=5, query=5), BinaryClassification(shot=5, query=5)
    for source in (regression, classes):
        source.dtype = torch.float64
        made = learner(source)
        curve = evaluate(made, source, "test", 4, by(made, 4))
        expected = curve.final["accuracy"].mean if source is classes else -curve.final["loss"].mean
        assert curve.selection_score == expected


def test_the_table_shows_every_step_of_a_short_curve_and_some_of_a_long_one() -> None:
    scores = [{"loss": Estimate(step, 0.5), "accuracy": Estimate(0.25, 0.01)} for step in range(31)]
    measures = (LOSS, Measure("accuracy", higher_is_better=True, percent=True))
    short = curve_table(Curve("test", 1000, scores[:4], measures))
    title = "test: 1,000 tasks, mean ± 95 % confidence interval"
    assert short.splitlines()[0] == title
    for transductive, said in ((True, "; transductive"), (False, "; not transductive")):
        curve = Curve("test", 1000, [{"loss": Estimate(1.0, 0.1)}], transductive=transductive)
        assert curve_table(curve).splitlines()[0] == title + said
        assert Curve.from_dict(curve.as_dict()) == curve
    assert [line.split()[0] for line in short.splitlines()[3:]] == ["0", "1", "2", "3"]
    assert "2.0000 ± 0.5000" in short
    assert "25.00 ± 1.00" in short
    shown = [line.split()[0] for line in curve_table(Curve("test", 9, scores, measures)).splitlines()[3:]]
    assert shown == ["0", "1", "2", "3", "4", "5", "10", "20", "30"]


def test_the_first_metric_selects_in_its_own_direction_and_a_curve_comes_back_from_json() -> None:
    for better, sign in ((True, 1), (False, -1)):
        scores = [{"loss": Estimate(2.0, 0.1), "error": Estimate(0.25, math.nan)}]
        measures = (LOSS, Measure("error", higher_is_better=better), Measure("other", higher_is_better=True))
        curve = Curve("test", 2, scores, measures, axis=None)
        assert curve.selection_score == sign * 0.25
        again = Curve.from_dict(curve.as_dict())
        assert (again.measures, again.axis, again.selection_score) == (measures, None, sign * 0.25)


def test_scores_are_read_as_the_tasks_say_and_not_as_their_source_does() -> None:
    """A source whose tasks bring another metric along than its own attribute names."""
    error = Metric(
        name="error", compute=lambda predictions, targets: (predictions - targets).abs().mean((1, 2))
    )

    class Own(Sinusoid):
        def batch(self, split, first_episode, count):
            batch = super().batch(split, first_episode, count)
            return replace(batch, scoring=Scoring(self.loss, (error,)))

    source = Own(shot=2, query=3, dtype=torch.float64)
    curve = evaluate(made := learner(source), source, "test", 4, Executor(Engine(chunk=2), made))
    assert [measure.name for measure in curve.measures] == ["loss", "error"]
    assert curve.final.keys() == {"loss", "error"}
    assert curve.selection_score == -curve.final["error"].mean


def test_a_pooled_score_is_that_of_all_tasks_together() -> None:
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(3, 500, generator=generator, dtype=torch.float64) + torch.tensor(
        [[1.0], [-2.0], [0.5]]
    )
    estimate = Estimate.of(pooled(parts))
    assert estimate.mean == pytest.approx(parts.mean(1).abs().sum().item())
    # Its interval is that of resampled tasks.
    chosen = torch.randint(500, (2000, 500), generator=generator)
    spread = parts[:, chosen].mean(2).abs().sum(0).std().item()
    assert estimate.ci95 == pytest.approx(1.96 * spread, rel=0.1)
    assert torch.equal(pooled(parts[:1]), parts[0])
