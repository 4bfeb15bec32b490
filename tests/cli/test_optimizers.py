"""`metarun optimizers`, `metarun continual`, and `metarun eval` of learned optimizers on other problems."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from metarun.engine.executor import Executor
from metarun.engine.settings import Engine
from metarun.evaluation.curve import evaluate
from metarun.evaluation.streams import _forgotten, follow_streams
from metarun.evaluation.trained import reopen
from metarun.evaluation.tuned import HAND_DESIGNED, RATES, against_tuned, response
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import Linear
from metarun.rules import LSTM, SGD, Adam, Momentum
from metarun.tasks import BinaryClassification, Examples, LinearRegression
from metarun.tasks.episodes import episodes
from metarun.tasks.metrics import ACCURACY, LOSS

FEW = ["device=cpu", "train.meta_batch=4", "train.validation_tasks=10", "train.test_tasks=20"]


@pytest.fixture
def learned(metarun, tmp_path: Path) -> Path:
    """A learned optimizer of a few meta-steps."""
    done = metarun("algo=l2l", "inner.steps=8", "train.steps=5", *FEW, "hydra.run.dir=learned")
    assert done.returncode == 0, done.stderr
    return tmp_path / "learned"


def test_compares_with_tuned_optimizers_in_a_table_and_pictures(metarun, learned: Path) -> None:
    done = metarun("optimizers", "learned")
    assert done.returncode == 0, done.stderr
    rows = re.findall(r"^ *(\w+) +([\d.e-]*) +[\d.]+ ± ", done.stdout, re.MULTILINE)
    assert [name for name, _ in rows] == ["learned", *HAND_DESIGNED]
    assert [rate == "" for _, rate in rows] == [True, False, False, False, False]
    (kept,) = (learned / "evaluations").glob("*-optimizers.json")
    content = json.loads(kept.read_text())["optimizers"]
    assert [each["optimizer"] for each in content] == ["learned", *HAND_DESIGNED]
    assert all(len(each["curve"]) == 9 for each in content)
    starts = {each["curve"][0]["loss"]["mean"] for each in content}
    assert len(starts) == 1  # all from the same parameters
    pictures = {path.name.split(".", 1)[1] for path in (learned / "evaluations").glob("*.png")}
    assert pictures == {"curves.png", "update.png"}
    results = json.loads((learned / "results.json").read_text())
    assert content[0]["final"] == results["final"]
    files = [str(path) for path in sorted((learned / "evaluations").glob("*.npz"))]
    assert len(files) == 1 + len(HAND_DESIGNED)
    done = metarun("compare", *(file.replace(".npz", ".json") for file in files), "--json", "compared.json")
    assert done.returncode == 0, done.stderr
    compared = json.loads(Path(learned.parent / "compared.json").read_text())
    names = {f"optimizer={name}" for name in ("learned", *HAND_DESIGNED)}
    assert {side["name"] for side in compared["sides"]} == names
    assert all(pair["paired"] for pair in compared["pairs"])  # all on the same tasks


def test_the_rate_is_the_best_of_the_grid_on_validation_tasks(learned: Path) -> None:
    trained = reopen(learned, [])
    learner, source = trained.experiment.learner, trained.experiment.source
    rule = learner.rule
    executor = Executor(replace(trained.engine, chunk=5), learner)
    entries = against_tuned(learner, source, executor, validation_tasks=10, test_tasks=5)
    found = {each.name: each for each in entries}
    assert learner.rule is rule
    batch = source.batch("validation", 0, 10)
    with torch.no_grad():
        start = next(learner.eval().trajectory(episodes(source, "validation", 0, 10))).params["head.weight"]
    losses = {}
    for lr in RATES:  # plain gradient descent on ‖Wθ − y‖², one formula
        theta = start[:, 0, :, None].double()
        w, y = batch.support.x.double(), batch.support.y.double()
        for _ in range(8):
            theta = theta - lr * 2 * w.mT @ (w @ theta - y)
        losses[lr] = (w @ theta - y).square().sum((1, 2)).mean().item()
    assert found["SGD"].lr == min(losses, key=losses.__getitem__)
    assert isinstance(found["Adam"].rule, Adam)
    assert found["momentum"].rule.momentum == 0.9


def test_other_problems_are_tried_by_overrides(metarun, learned: Path) -> None:
    for overrides in (
        ["inner.test_steps=20"],
        ["data.dimension=30"],
        ["data=sinusoid", "model=mlp", "model.hidden=[5]", "model.activation=tanh"],
    ):
        done = metarun("eval", "learned", *overrides)
        assert done.returncode == 0, done.stderr
        steps = 20 if "inner.test_steps=20" in overrides else 8
        assert re.search(rf"^ *{steps} +[\d.]+ ± ", done.stdout, re.MULTILINE)
    done = metarun("eval", "learned", "train.validation_tasks=3")
    assert done.returncode == 2
    assert "train.validation_tasks cannot be changed for a test" in done.stderr
    wrong = metarun("eval", "learned", "model.hiden=[5]")
    assert wrong.returncode == 2
    assert "model.hiden=[5]" in wrong.stderr
    assert wrong.stderr.count("\n") == 1


def test_another_network_is_refused_where_it_was_learned(metarun, tmp_path: Path) -> None:
    assert metarun("train.steps=2", *FEW, "hydra.run.dir=maml").returncode == 0
    wrong = metarun("eval", "maml", "model.hidden=[5]")
    assert wrong.returncode == 2
    assert "model.hidden cannot be changed for a test" in wrong.stderr
    done = metarun("optimizers", "maml")  # any rule can be compared; only coordinate-wise ones are drawn
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "maml" / "evaluations").glob("*.update.png"))


def test_a_stream_of_tasks_is_followed_and_what_is_forgotten_said(metarun, learned: Path) -> None:
    done = metarun("continual", "learned", "--tasks", "3", "--streams", "7")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ *after 3 +[\d.]+ ± ", done.stdout, re.MULTILINE)
    assert "forgotten since each was learned" in done.stdout
    (kept,) = (learned / "evaluations").glob("*-continual.json")
    content = json.loads(kept.read_text())
    assert len(content["scores"]) == 3
    assert [len(row) for row in content["scores"]] == [3, 3, 3]
    mean = lambda i, j: content["scores"][i][j]["loss"]["mean"]
    assert content["average"]["loss"]["mean"] == pytest.approx(sum(mean(2, j) for j in range(3)) / 3)
    lost = sum(mean(2, j) - mean(j, j) for j in range(2)) / 2
    assert content["forgetting"]["loss"]["mean"] == pytest.approx(lost)
    alone = json.loads(kept.read_text())["start"][0]["loss"]["mean"]
    assert math.isfinite(alone)
    mistakes = (["--tasks", "0"], "--tasks 0: should be 1 or more"), (["--task"], "unrecognized")
    for flags, message in mistakes:
        wrong = metarun("continual", "learned", *flags)
        assert wrong.returncode == 2
        assert message in wrong.stderr


def test_the_first_task_of_a_stream_is_an_ordinary_test(learned: Path) -> None:
    trained = reopen(learned, [])
    learner, source = trained.experiment.learner, trained.experiment.source
    fours, sixes = (Executor(replace(trained.engine, chunk=chunk), learner) for chunk in (4, 6))
    stream = follow_streams(learner, source, fours, tasks=1, streams=6)
    curve = evaluate(learner, source, "test", 6, sixes)
    assert stream.scores[0][0]["loss"].mean == pytest.approx(curve.final["loss"].mean, rel=1e-5)
    assert stream.forgetting == {}


def test_a_stream_goes_on_from_what_the_task_before_has_left() -> None:
    source = LinearRegression(shot=3, query=5, dtype=torch.float64)
    model = Linear(input_shape=(1,), output_size=1).double()
    learner = GradientAdaptation(model=model, rule=SGD(lr=0.1), loop=InnerLoop(steps=2))
    found = follow_streams(learner, source, Executor(Engine(chunk=1), learner), tasks=3, streams=1).scores
    batch = episodes(source, "test", 0, 3)
    weight, bias = (p.detach().clone().requires_grad_() for p in model.parameters())

    def loss(part: Examples, task: int) -> torch.Tensor:
        return (part.x[task] * weight + bias - part.y[task]).square().mean()

    for i in range(3):
        for _ in range(2):
            grads = torch.autograd.grad(loss(batch.support, i), [weight, bias])
            with torch.no_grad():
                weight -= 0.1 * grads[0]
                bias -= 0.1 * grads[1]
        for j in range(3):
            assert found[i][j]["loss"].mean == pytest.approx(loss(batch.query, j).item(), rel=1e-12)


def test_forgetting_is_how_much_worse_whatever_the_score() -> None:
    values = torch.zeros(3, 2, 1)  # before and after two tasks, on each of them, of one stream
    values[1, 0], values[2, 0], values[2, 1] = 0.9, 0.6, 0.8
    assert _forgotten(ACCURACY, values).item() == pytest.approx(0.3)
    assert _forgotten(LOSS, values).item() == pytest.approx(-0.3)


def test_without_transduction_an_example_is_seen_beside_its_own_tasks_support_set() -> None:
    source = BinaryClassification(shot=2, query=3)
    learner = GradientAdaptation(
        model=nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)),
        rule=SGD(lr=0.0),
        loop=InnerLoop(steps=1),
        transductive=False,
    )
    stream = follow_streams(learner, source, Executor(Engine(chunk=4), learner), tasks=3, streams=4)
    # With a rate of zero nothing is learned, so a task's score is the same after any other.
    for j in range(3):
        assert len({row[j]["loss"].mean for row in [stream.start, *stream.scores]}) == 1


def test_a_response_is_the_step_after_a_history() -> None:
    values = torch.tensor([-1.0, 0.5])
    torch.testing.assert_close(
        response(SGD(lr=0.1), values, values, 3), torch.tensor([[0.1, -0.05], [0.1, -0.05]])
    )
    # v = g/2³ + g/2² + g/2 + now, with g four times before: (1 + 1/2 + 1/4 + 1/8) g / 2 + now.
    expected = -0.1 * (values[None] + 0.9375 * values[:, None])
    torch.testing.assert_close(response(Momentum(lr=0.1, momentum=0.5), values, values, 4), expected)
    rule = LSTM(hidden=3)
    rule.prepare({}, torch.Generator().manual_seed(0))
    assert response(rule, values, values, 2).shape == (2, 2)


def test_a_rule_tied_to_its_network_stays_with_it(metarun, tmp_path: Path) -> None:
    made = metarun("algo=l2l", "inner=metasgd", "train.steps=2", *FEW, "hydra.run.dir=tied")
    assert made.returncode == 0, made.stderr
    wrong = metarun("eval", "tied", "data.dimension=5")
    assert wrong.returncode == 2
    assert "this run's rule has weights for each parameter of its own network" in wrong.stderr
    assert wrong.stderr.count("\n") == 1
