"""The training loop: what it writes, and that a resumed run ends with the bits of one never stopped."""

from __future__ import annotations

import copy
import itertools
import json
import math
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from metarun.config.composition import compose_config
from metarun.engine.settings import Engine
from metarun.errors import ConfigError, DivergedError, Interrupted, MetarunError, OutOfTimeError
from metarun.evaluation.curve import Curve, Estimate
from metarun.experiment.config import read_config
from metarun.metagradients import Exact, MetaStep, Progress, Truncated
from metarun.runs.directory import Run
from metarun.runs.signals import StopSignals
from metarun.tasks import Split, Tasks, TaskSource
from metarun.tasks.episodes import episodes
from metarun.training.loop import train
from metarun.training.restore import restore
from metarun.training.state import Training

SMALL = [
    "device=cpu",
    "train.steps=12",
    "train.meta_batch=4",
    "train.log_every=5",
    "train.validate_every=4",
    "train.validation_tasks=8",
    "train.checkpoint_every=3",
    "train.test_tasks=8",
]


def start(directory: Path, *overrides: str) -> tuple[Any, Run]:
    node = compose_config([*SMALL, *overrides])
    return read_config(node), Run.create(directory, node, {})


def untimed(run: Run) -> list[dict[str, Any]]:
    timing = ("seconds", "tasks_per_second", "time")
    return [{k: v for k, v in record.items() if k not in timing} for record in run.metrics.records()]


def test_what_is_written_and_when(tmp_path: Path) -> None:
    config, run = start(tmp_path)
    curve = train(config, run)
    steps = [(r["split"], r["step"]) for r in run.metrics.records()]
    assert [s for kind, s in steps if kind == "train"] == [5, 10, 12]
    assert [s for kind, s in steps if kind == "validation"] == [4, 8, 12]
    assert all(r["tasks_per_second"] > 0 and r["seconds"] > 0 for r in run.metrics.records())
    best, last = run.checkpoints.best(), run.checkpoints.newest()
    assert best is not None
    assert last is not None
    assert last["step"] == 12
    losses = {r["step"]: r["loss"] for r in run.metrics.records() if r["split"] == "validation"}
    assert best["step"] == min(losses, key=losses.__getitem__)
    assert curve.tasks == 8
    assert (run.directory / "results.json").exists()


IMAGES = [
    "data=omniglot",
    "model.filters=4",
    "outer.schedule=cosine",
    "outer.clip_norm=0.1",
    "engine.chunk=3",
]


@pytest.mark.parametrize("data", [[], IMAGES], ids=["sinusoid", "omniglot"])
@pytest.mark.parametrize("algo", ["maml", "reptile", "metasgd", "protonet"])
@pytest.mark.parametrize("stopped_at", [1, 5, 6, 11])
def test_a_resumed_run_ends_with_the_same_bits(
    tmp_path: Path, request: pytest.FixtureRequest, algo: str, stopped_at: int, data: list[str]
) -> None:
    check_resumed_bits(tmp_path, request, algo, stopped_at, data)


# One of each kind of those that read: what they draw follows from tasks, and padding is taken out.
READING = {
    "anp": ["data=gp", "data.shot=[2,5]", "algo.width=8", "algo.heads=2", "algo.samples=2"],
    "icl": ["data=linear_icl", "data.shot=[2,5]", "algo.width=8", "algo.depth=1", "algo.heads=2"],
    "pfn": ["data=tabular_prior", "data.width=6", "data.features=[2,6]", "data.shot=[4,8]", "algo.size=tiny"],
    "mann": ["data=gaussian_classes", "algo.controller=8", "algo.places=4", "algo.width=3", "algo.heads=2"],
    "snail": ["data=gaussian_classes", "algo.scale=32"],
    "rnn": ["data=image_completion", "data.shot=[2,5]", "data.query=9", "algo.width=8"],
    "leo": ["data=gaussian_classes", "model.hidden=[8]", "algo.latent=4"],
    "metanet": ["data=gaussian_classes", "model.hidden=[8]", "algo.hidden=4", "algo.key=3"],
}


@pytest.mark.parametrize("algo", READING)
def test_a_resumed_run_of_a_learner_that_reads_ends_with_the_same_bits(
    tmp_path: Path, request: pytest.FixtureRequest, algo: str
) -> None:
    if algo == "rnn":
        request.getfixturevalue("omniglot_root")
    check_resumed_bits(tmp_path, request, algo, 5, [*READING[algo], "engine.chunk=3"])


def check_resumed_bits(
    tmp_path: Path, request: pytest.FixtureRequest, algo: str, stopped_at: int, data: list[str]
) -> None:
    if data is IMAGES:
        request.getfixturevalue("omniglot_root")
        request.getfixturevalue("shared_cache")
    elif algo == "protonet":
        data = ["data=binary_classification", "model.norm=batch"]
    config, whole = start(tmp_path / "whole", f"algo={algo}", *data)
    expected = train(config, whole)

    config, run = start(tmp_path / "stopped", f"algo={algo}", *data)
    train_until(stopped_at, config, run)
    found = train(config, run)

    assert found == expected
    assert untimed(run) == untimed(whole)
    for a, b in (
        (run.checkpoints.best(), whole.checkpoints.best()),
        (run.checkpoints.newest(), whole.checkpoints.newest()),
    ):
        assert a is not None
        assert b is not None
        assert_same(a["learner"], b["learner"])
    assert_same(a["outer"], b["outer"])


AUGMENTED = ["data.train_augment=[flip,crop,colour]", "data.train_smoothing=0.1", "engine.chunk=1"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo=maml++"],
        ["algo=hypernet"],
        ["algo=l2l", "inner.steps=6", "metagradient.window=2"],
        ["algo=l2l", "inner=metz", "inner.steps=6", "metagradient=pes", "metagradient.window=2"],
        ["algo=l2l", "inner.steps=6", "metagradient.window=2", "metagradient.update=horizon"],
        # Mini-batches over epochs, of changed images, and a mean embedding that follows them.
        ["algo=simpleshot", "data=omniglot", "model.filters=4", "data.train_batch=9", *AUGMENTED],
    ],
    ids=["maml++", "hypernet", "l2l", "pes", "l2l by horizons", "simpleshot"],
)
def test_what_anneals_or_draws_goes_on_to_the_same_bits(
    tmp_path: Path, request: pytest.FixtureRequest, overrides: list[str]
) -> None:
    if "data=omniglot" in overrides:
        request.getfixturevalue("omniglot_root")
    config, whole = start(tmp_path / "whole", *overrides)
    expected = train(config, whole)
    config, run = start(tmp_path / "stopped", *overrides)
    train_until(5, config, run)
    assert train(config, run) == expected
    one, other = run.checkpoints.newest(), whole.checkpoints.newest()
    assert one is not None
    assert other is not None
    assert_same(one["learner"], other["learner"])
    assert_same(one["outer"], other["outer"])


def train_until(step: int, config: Any, run: Run) -> None:
    """Train as far as that, as a killed process does: whatever came after the last checkpoint is lost."""
    training = Training(config, run)
    restore(training)
    while training.step < step:
        training.take_step()
        if training.is_due(config.train.log_every):
            training.log_scores()
        if training.is_due(config.train.validate_every):
            training.validate()
        if training.is_due(config.train.checkpoint_every):
            training.save()


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict | list):
        assert len(one) == len(other)
        for key in one if isinstance(one, dict) else range(len(one)):
            assert_same(one[key], other[key])
    else:
        assert one == other


def test_the_engine_is_kept_for_the_whole_run(tmp_path: Path) -> None:
    config, run = start(tmp_path, "engine.chunk=3", "engine.threads=1", "engine.workers=2")
    training = Training(config, run)
    restore(training)
    resumed = Training(read_config(compose_config([*SMALL, "engine.chunk=2"])), run)
    restore(resumed)
    assert resumed.computation.engine == Engine(3, 1, 2, False)


@pytest.mark.parametrize("algo", ["maml", "reptile"])
def test_a_damaged_last_checkpoint_costs_steps_and_no_bits(tmp_path: Path, algo: str) -> None:
    expected, whole = finished(tmp_path / "whole", f"algo={algo}")
    config, run = start(tmp_path / "damaged", f"algo={algo}")
    train_until(11, config, run)
    last = run.directory / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:-1])
    train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert_same(state["learner"], expected["learner"])
    assert untimed(run) == untimed(whole)
    assert last.with_name("last.pt.damaged").exists()


def test_more_steps_go_on_where_fewer_ended(tmp_path: Path) -> None:
    expected, _ = finished(tmp_path / "whole")
    finished(tmp_path / "more", "train.steps=8")
    config, run = start(tmp_path / "more")
    train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert_same(state["learner"], expected["learner"])
    assert run.config()["train"]["steps"] == 12
    assert run.manifest()["resumed"][0] | {"changed": None} == {"step": 8, "changed": None}
    with pytest.raises(ConfigError, match=r"train\.steps=5: the run has taken 12 steps already"):
        train(*start(tmp_path / "more", "train.steps=5"))


def test_engine_keys_that_are_typed_anew_take_effect(tmp_path: Path) -> None:
    finished(tmp_path, "train.steps=4", "engine.chunk=2")
    config, run = start(tmp_path, "train.steps=6", "engine.chunk=1")
    train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert state["engine"]["chunk"] == 1


def test_training_ends_when_validations_bring_nothing(tmp_path: Path) -> None:
    # Nothing is learned, so every validation after the first is no better.
    still = ["outer.lr=0", "train.validate_every=2", "train.patience=3", "train.log_every=5"]
    state, run = finished(tmp_path / "early", *still)
    assert state["step"] == 8
    results = json.loads((run.directory / "results.json").read_text())
    assert results["stopped_early_at"] == 8
    assert results["checkpoint_step"] == results["validation"]["step"] == 2
    logged = [record["step"] for record in run.metrics.records() if record["split"] == "train"]
    assert logged == [5, 8]  # the rest is not lost
    before = untimed(run)
    train(*start(tmp_path / "early", *still))  # it stays ended
    assert untimed(run) == before

    config, run = start(tmp_path / "resumed", *still)
    train_until(7, config, run)  # the count of validations is in its checkpoint
    train(config, run)
    final = run.checkpoints.newest()
    assert final is not None
    assert final["step"] == 8


ONE_CALL_A_STEP = ["engine.chunk=4", "engine.workers=1", "engine.threads=1"]


class Spoiled(Exact):
    """An exact meta-gradient that is no number in some calls; a new run's first call is a measurement."""

    def __init__(self, *calls: int) -> None:
        super().__init__()
        self.calls, self.spoiled = 0, calls

    def gradients(self, *arguments: Any) -> MetaStep:
        self.calls += 1
        step = super().gradients(*arguments)
        if self.calls in self.spoiled:
            next(iter(step.gradients.values())).flatten()[0] = math.nan
        return step


class Listening(Exact):
    """An exact meta-gradient that remembers what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Progress] = []

    def windows(self, learner: Any, tasks: Tasks, progress: Progress, weight: float) -> Iterator[MetaStep]:
        self.heard.append(progress)
        return super().windows(learner, tasks, progress, weight)


def test_the_meta_gradient_is_told_of_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Listening()
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: told)
    config, run = start(tmp_path, "seed=5", *ONE_CALL_A_STEP)
    train_until(5, config, run)
    assert told.heard == [Progress(step, 12, 5) for step in range(5)]
    told.heard.clear()
    train(config, run)  # from the checkpoint of step 3
    assert told.heard == [Progress(step, 12, 5) for step in range(3, 12)]


def test_steps_that_are_not_finite_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Spoiled(4, 5, 10))
    state, run = finished(tmp_path, "train.on_nonfinite=skip", *ONE_CALL_A_STEP)
    assert state["step"] == 12
    assert state["skipped"] == {"all": 3, "in_a_row": 0}
    steps = {int(each["step"]) for each in state["outer"]["state"].values()}
    assert steps == {9}  # Adam has seen the others only
    assert [r.get("skipped") for r in run.metrics.records() if r["split"] == "train"] == [2, 3, 3]
    assert json.loads((run.directory / "results.json").read_text())["skipped"] == 3
    assert "step 3 is skipped: the meta-gradient is not finite (1 so far)" in caplog.text


def test_a_step_that_is_not_finite_stops_the_run_before_it_does_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Spoiled(7))
    config, run = start(tmp_path, *ONE_CALL_A_STEP)
    with pytest.raises(DivergedError, match="the meta-gradient is not finite at step 6: lower"):
        train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert state["step"] == 5
    assert all(p.isfinite().all() for p in state["learner"].values())
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Spoiled(1))
    resumed, run = start(tmp_path, *ONE_CALL_A_STEP, "train.on_nonfinite=skip")
    train(resumed, run)  # with what the message says


@pytest.mark.parametrize("on_nonfinite", ["stop", "skip"])
def test_what_has_moved_in_a_step_that_is_not_finite_in_the_end_goes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_nonfinite: str
) -> None:
    class LaterSpoiled(Truncated):
        def windows(
            self, learner: Any, tasks: Tasks, progress: Progress, weight: float
        ) -> Iterator[MetaStep]:
            for number, step in enumerate(super().windows(learner, tasks, progress, weight)):
                if number == 1 and progress.step == 3:
                    step.gradients["rule.rates.all"].fill_(math.inf)
                yield step

    overrides = ["inner=learned_rate", "inner.steps=4", f"train.on_nonfinite={on_nonfinite}"]
    make = lambda *_: LaterSpoiled(window=2, update="window")
    monkeypatch.setattr("metarun.training.state.build_metagradient", make)
    config, run = start(tmp_path, *overrides, *ONE_CALL_A_STEP)
    training = Training(config, run)
    restore(training)
    for _ in range(3):
        training.take_step()
    expected = copy.deepcopy((training.learner.state_dict(), training.outer.state_dict()))
    if on_nonfinite == "stop":
        with pytest.raises(DivergedError):
            training.take_step()
    else:
        training.take_step()
    assert_same(training.learner.state_dict(), expected[0])
    for number, state in expected[1]["state"].items():
        assert_same(training.outer.state_dict()["state"][number], state)


def test_steps_that_are_never_finite_end_the_run(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="for 100 consecutive steps, last at step"):
        finished(tmp_path, "inner.lr=1e30", "train.on_nonfinite=skip", "train.steps=500", "train.log_every=7")


def test_the_time_limit_stops_well(tmp_path: Path) -> None:
    expected, whole = finished(tmp_path / "whole")
    config, run = start(tmp_path / "limited", "train.max_time=1e-9")
    for _ in range(11):
        with pytest.raises(OutOfTimeError, match=r"train\.max_time is over: stopped .*metarun resume"):
            train(config, run)
    _, run = start(tmp_path / "limited")
    train(start(tmp_path / "limited")[0], run)
    state = run.checkpoints.newest()
    assert state is not None
    assert_same(state["learner"], expected["learner"])
    assert untimed(run) == untimed(whole)


@pytest.mark.parametrize(
    "intervals",
    [["train.log_every=1"], ["train.log_every=100", "train.checkpoint_every=1"], ["train.log_every=100"]],
)
def test_divergence_stops_the_run_says_what_to_type_and_spares_the_checkpoint(
    tmp_path: Path, intervals: list[str]
) -> None:
    config, run = start(tmp_path, "inner.lr=1e30", *intervals)
    with pytest.raises(MetarunError, match=r"(is nan|is inf|is not finite) at step \d+: lower inner\.lr"):
        train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert all(p.isfinite().all() for p in state["learner"].values())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["inner=lstm", "inner.steps=2", "inner.scale=1e30"], "lower inner.scale or outer.lr"),
        (["metagradient=es", "metagradient.sigma=1e30"], "lower inner.lr, metagradient.sigma or outer.lr"),
    ],
)
def test_divergence_names_the_keys_that_the_run_has(tmp_path: Path, overrides: list[str], told: str) -> None:
    config, run = start(tmp_path, *overrides)
    with pytest.raises(DivergedError, match=told):
        train(config, run)


def test_a_validation_that_is_no_number_does_not_stay_the_best(tmp_path: Path) -> None:
    worst = Curve("validation", 2, [{"loss": Estimate(float("nan"), 0.0)}])
    assert worst.selection_score == -math.inf


def test_without_its_best_checkpoint_a_run_tests_its_last(tmp_path: Path) -> None:
    config, run = start(tmp_path)
    train(config, run)
    (tmp_path / "checkpoints" / "best.pt").unlink()
    train(config, run)
    assert json.loads((tmp_path / "results.json").read_text())["checkpoint_step"] == 12


def test_no_steps_tests_the_initialisation(tmp_path: Path) -> None:
    config, run = start(tmp_path, "train.steps=0")
    assert len(train(config, run).steps) == 2


def test_groups_that_do_not_fit_are_an_error(tmp_path: Path) -> None:
    config, run = start(tmp_path, "model=conv4")
    with pytest.raises(ConfigError, match="model=conv4 needs images"):
        train(config, run)


class Greedy(Exact):
    """An exact meta-gradient that needs more memory than there is, for so many tasks, from a call on."""

    def __init__(self, most: int, from_call: int = 0) -> None:
        super().__init__()
        self.most, self.calls_left = most, from_call

    def gradients(self, learner: Any, tasks: Tasks, *arguments: Any) -> MetaStep:
        self.calls_left -= 1
        if self.calls_left < 0 and len(tasks) > self.most:
            torch.empty(2**60, dtype=torch.uint8)
        return super().gradients(learner, tasks, *arguments)


@pytest.mark.parametrize(("chunk", "most"), [(2, 1), (1000, 2)])  # of four tasks
@pytest.mark.parametrize("call", [5, 6])  # where chunks are of two: the first of a step, and its second
def test_where_memory_runs_out_chunks_are_halved_and_nothing_is_lost(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture, chunk: int, most: int, call: int
) -> None:
    expected, _ = finished(tmp_path / "enough", "engine.chunk=1", "engine.workers=1")
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Greedy(most, call))
    state, run = finished(tmp_path / "little", f"engine.chunk={chunk}", "engine.workers=1")
    assert caplog.text.count("memory ran out") == 1
    assert state["engine"]["chunk"] == most
    assert json.loads((run.directory / "engine.json").read_text())["chunk"] == most
    for name, p in expected["learner"].items():
        torch.testing.assert_close(state["learner"][name], p)


def test_a_run_that_ran_out_of_memory_and_was_killed_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ["engine.chunk=4", "engine.workers=1"]
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Greedy(most=2, from_call=5))
    through, _ = finished(tmp_path / "through", *whole)
    config, run = start(tmp_path / "killed", *whole)
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Greedy(most=2, from_call=5))
    training = Training(config, run)
    restore(training)
    while training.step < 5:  # memory runs out after the checkpoint of step 3, and it dies before that of 6
        training.take_step()
        if training.step == 3:
            training.save()
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Exact())
    train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    assert state["engine"]["chunk"] == through["engine"]["chunk"] == 2
    assert all(torch.equal(state["learner"][name], p) for name, p in through["learner"].items())


def test_memory_that_runs_out_between_two_windows_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Short(Truncated):
        def windows(self, *arguments: Any) -> Iterator[MetaStep]:
            yield from itertools.islice(super().windows(*arguments), 1)
            torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(
        "metarun.training.state.build_metagradient", lambda *_: Short(window=1, update="window")
    )
    config, run = start(
        tmp_path, "algo=metasgd", "inner.steps=2", "engine.chunk=4", "engine.threads=1", "engine.workers=1"
    )
    with pytest.raises(MetarunError, match=r"memory ran out within a meta-step.*smaller train\.meta_batch"):
        train(config, run)


def test_a_test_that_does_not_fit_is_done_in_smaller_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, run = finished(tmp_path / "enough", "engine.chunk=4")
    results = json.loads((run.directory / "results.json").read_text())

    def greedy(source: TaskSource, split: Split, first_episode: int, count: int) -> Tasks:
        if count > 1:
            torch.empty(2**60, dtype=torch.uint8)
        return episodes(source, split, first_episode, count)

    monkeypatch.setattr("metarun.evaluation.curve.episodes", greedy)
    state, run = finished(tmp_path / "little", "engine.chunk=4")
    again = json.loads((run.directory / "results.json").read_text())
    assert again["final"]["loss"]["mean"] == pytest.approx(results["final"]["loss"]["mean"], rel=1e-5)
    assert state["engine"] == expected["engine"]  # the training goes on as it was
    assert [each["evaluation_engine"]["chunk"] for each in (expected, state)] == [4, 1]


def test_one_task_that_does_not_fit_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metarun.training.state.build_metagradient", lambda *_: Greedy(most=0))
    with pytest.raises(MetarunError, match=r"one task does not fit.*engine\.rematerialise=true"):
        finished(tmp_path, "engine.chunk=4")


def finished(directory: Path, *overrides: str) -> tuple[dict[str, Any], Run]:
    config, run = start(directory, *overrides)
    train(config, run)
    state = run.checkpoints.newest()
    assert state is not None
    return state, run


def test_a_killed_run_still_knows_its_best_learner_whatever_changes(tmp_path: Path) -> None:
    # Checkpoints at 3, 6, …, validations at 2, 4, …: killed after a validation that no checkpoint knows of,
    # it goes on with a rate that ruins it, and tests the best that the checkpoint knows of.
    words = ["train.validate_every=2", "train.checkpoint_every=3", "train.keep=0", "engine.chunk=4"]
    config, run = start(tmp_path / "run", *words)
    training = Training(config, run)
    restore(training)
    for _ in range(3):
        training.take_step()
        if training.step == 2:
            training.validate()
    training.save()
    remembered = training.selection.best
    best = run.checkpoints.best(2)
    assert best is not None
    training.take_step()
    training.selection.best = {"step": 2, "selection_score": -math.inf}  # whatever comes is better
    training.validate()
    assert {path.name for path in run.checkpoints.folder.glob("best*")} == {"best.pt", "best-before.pt"}
    ruined, again = start(tmp_path / "run", *words, "outer.lr=5", "train.on_nonfinite=skip")
    curve = train(ruined, again)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["checkpoint_step"] == remembered["step"] == 2
    assert results["validation"] == remembered
    assert curve.final["loss"].mean < 100


def test_a_best_learner_that_is_lost_is_the_checkpoints_own_where_it_is_of_that_step(tmp_path: Path) -> None:
    config, run = start(
        tmp_path / "run", "train.validate_every=3", "train.checkpoint_every=3", "engine.chunk=4"
    )
    training = Training(config, run)
    restore(training)
    for _ in range(3):
        training.take_step()
    training.validate()
    training.save()
    (run.checkpoints.folder / "best.pt").unlink()
    again = Training(config, Run(tmp_path / "run"))
    restore(again)
    assert again.selection.best == training.selection.best
    assert again.run.checkpoints.best(3) is not None


def test_a_validation_can_be_stopped_and_is_done_again(tmp_path: Path) -> None:
    words = ["train.validate_every=4", "train.checkpoint_every=5", "engine.chunk=2", "engine.workers=1"]
    config, whole = start(tmp_path / "whole", *words)
    expected = train(config, whole)
    config, run = start(tmp_path / "stopped", *words)

    class Signals(StopSignals):
        """As if a signal came in the middle of the first validation."""

        looks = 0

        @property
        def reason(self) -> int:
            self.looks += 1
            return signal.SIGTERM if self.looks == 6 else 0  # four steps, one chunk, and the second

    with pytest.raises(
        Interrupted, match=r"stopped after step 4 of 12, while validating; to go on: metarun resume"
    ):
        train(config, run, signals=Signals())
    assert not [each for each in run.metrics.records() if each["split"] == "validation"]
    assert train(config, Run(tmp_path / "stopped")) == expected
    assert untimed(run) == untimed(whole)
    states = [each.checkpoints.newest() for each in (run, whole)]
    for one, other in zip(*(each["learner"].values() for each in states), strict=True):  # type: ignore[index]
        assert torch.equal(one, other)
