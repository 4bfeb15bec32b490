"""Searches by Optuna: as many trials as asked for, none twice, whatever happens in between."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from processes import METARUN, lines_of, started, wait_until

from metarun.sweeps.search import representative
from metarun.sweeps.study import distribution

FEW = [
    "device=cpu",
    "train.steps=8",
    "train.meta_batch=4",
    "engine.chunk=4",  # nothing has to be measured
    "train.log_every=1",
    "train.validate_every=2",
    "train.validation_tasks=4",
    "train.checkpoint_every=2",
    "train.test_tasks=4",
]
OPTUNA = ["-m", "hydra/sweeper=optuna"]


def trials(sweep: Path) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name="metarun", storage=f"sqlite:///{sweep / 'study.db'}")
    return study.get_trials()


def results(sweep: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((sweep / "results.json").read_text())
    return found


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("x=interval(0.1,1)", FloatDistribution(0.1, 1.0)),
        ("x=tag(log,interval(0.001,1.0))", FloatDistribution(0.001, 1.0, log=True)),
        ("x=interval(1,9)", FloatDistribution(1.0, 9.0)),
        ("x=int(interval(1,9))", IntDistribution(1, 9)),
        ("x=int(tag(log,interval(1,9)))", IntDistribution(1, 9, log=True)),
        ("x=range(1,6)", IntDistribution(1, 5)),
        ("x=range(0,10,3)", IntDistribution(0, 9, step=3)),
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=0.1,0.2", CategoricalDistribution(["0.1", "0.2"])),
        ("x=choice([1,2],[3])", CategoricalDistribution(["[1,2]", "[3]"])),
    ],
)
def test_what_is_typed_is_what_is_searched(word: str, expected: object) -> None:
    (override,) = OverridesParser.create().parse_overrides([word])
    assert distribution(override) == expected
    assert representative(override).startswith("x=")


def test_a_search_has_exactly_as_many_trials_as_asked_for_and_continues(metarun, tmp_path: Path) -> None:
    space = ["inner.lr=tag(log,interval(0.001,0.5))", "inner.steps=1,2"]
    words = [*OPTUNA, *space, *FEW, "hydra.sweeper.study.pruner._target_=optuna.pruners.NopPruner"]
    words += ["~hydra.sweeper.study.pruner.n_startup_trials"]
    first = metarun(*words, "hydra.sweeper.n_trials=3", "hydra.sweep.dir=parts")
    assert first.returncode == 0, first.stderr
    assert len(trials(tmp_path / "parts")) == 3
    again = metarun("resume", "parts", "hydra.sweeper.n_trials=5")
    assert again.returncode == 0, again.stderr
    found = trials(tmp_path / "parts")
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 5
    assert {path.name for path in (tmp_path / "parts").iterdir() if path.is_dir()} == set("01234")
    assert len({trial.params["inner.lr"] for trial in found}) == 5
    for trial in found:
        kept = json.loads((tmp_path / "parts" / str(trial.number) / "results.json").read_text())
        assert trial.value == kept["validation"]["selection_score"]
    best = max(found, key=lambda trial: trial.value or 0.0)
    assert results(tmp_path / "parts")["best"] == best.number
    assert f"best on validation tasks: job {best.number} (" in again.stdout

    whole = metarun(*words, "hydra.sweeper.n_trials=5", "hydra.sweep.dir=whole")
    assert whole.returncode == 0, whole.stderr
    assert [trial.params for trial in trials(tmp_path / "whole")] == [trial.params for trial in found]
    done = metarun("resume", "parts", "hydra.sweeper.n_trials=5")
    assert done.returncode == 0
    assert len(trials(tmp_path / "parts")) == 5


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trial_it_was_in(metarun, tmp_path: Path, cache: Path) -> None:
    words = [*OPTUNA, "search=rates", *FEW, "train.steps=200", "hydra.sweeper.n_trials=3"]
    words += ["hydra.sweeper.study.pruner.n_startup_trials=99", "hydra.sweep.dir=search"]
    sweep = tmp_path / "search"
    with started([*METARUN, *words], tmp_path, METARUN_CACHE=str(cache)) as process:
        wait_until(lambda: lines_of(sweep / "1" / "metrics.jsonl") > 50, process)
        process.kill()
    assert [trial.state for trial in trials(sweep)] == [TrialState.COMPLETE, TrialState.RUNNING]
    before = trials(sweep)[1].params
    again = metarun("resume", "search")
    assert again.returncode == 0, again.stderr
    assert "2 of 3 trials exist, 1 of them unfinished" in again.stderr
    found = trials(sweep)
    assert [trial.state for trial in found] == [TrialState.COMPLETE] * 3
    assert found[1].params == before
    assert len(json.loads((sweep / "1" / "manifest.json").read_text())["resumed"]) == 1
    assert sorted(found[1].intermediate_values) == list(range(2, 201, 2))


def test_a_failing_trial_does_not_end_a_search_and_bad_ones_are_pruned(metarun, tmp_path: Path) -> None:
    # With a rate of 1e30 every step fails; with 10 the loss is far above that of the others from the start.
    space = ["inner.lr=1e30,0.01,0.02,10.0", "outer.lr=0.001,0.002"]
    sampler = ["hydra.sweeper.study.sampler._target_=optuna.samplers.RandomSampler"]
    pruner = ["hydra.sweeper.study.pruner.n_startup_trials=1"]
    words = [*OPTUNA, *space, *FEW, *sampler, *pruner, "hydra.sweeper.n_trials=8", "hydra.sweep.dir=search"]
    done = metarun(*words)
    assert done.returncode == 1
    assert re.search(r"metarun: \d of 8 jobs failed \(\d", done.stderr)
    found = trials(tmp_path / "search")
    assert len(found) == 8
    states = {(trial.params["inner.lr"], trial.state) for trial in found}
    assert ("1e+30", TrialState.RUNNING) in states  # for Optuna it has not ended: it can be run again
    assert any(trial.state is TrialState.PRUNED for trial in found)
    assert all(trial.state is TrialState.RUNNING for trial in found if trial.params["inner.lr"] == "1e+30")
    again = metarun("resume", "search")
    assert "8 of 8 trials exist" in again.stderr
    assert again.stderr.count("failed: the loss is nan at step 1") == sum(
        "1e+30" in str(t.params) for t in found
    )
    refused = metarun("resume", "search", "train.steps=20")
    assert refused.returncode == 2
    assert "the trials of a search are compared" in refused.stderr
    assert "pruned: " in done.stdout
    pruned = next(trial for trial in found if trial.state is TrialState.PRUNED)
    assert not (tmp_path / "search" / str(pruned.number) / "results.json").exists()


@pytest.mark.slow
def test_a_search_on_several_cores_tells_every_trial(metarun, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2"]
    words = [
        *OPTUNA,
        "search=inner_loop",
        *FEW,
        *parallel,
        "hydra.sweeper.n_trials=5",
        "hydra.sweep.dir=search",
    ]
    done = metarun(*words)
    assert done.returncode == 0, done.stderr
    ended = {TrialState.COMPLETE, TrialState.PRUNED}
    assert [trial.state in ended for trial in trials(tmp_path / "search")] == [True] * 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search=ratess"], "search=ratess: there is no such option; did you mean rates?"),
        ([], "there is nothing to search in; type search=rates"),
        (["search=rates", "train.validate_every=0"], "a search needs validations"),
        (["search=rates", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: should be a whole number"),
        (["inner.lrr=interval(0,1)"], "inner.lrr=0.0: there is no such key; did you mean lr?"),
        (["inner.lr=interval(-1,1)"], "inner.lr=-1.0: should be greater than or equal to 0"),
    ],
)
def test_mistakes_are_one_line_and_nothing_is_written(
    metarun, tmp_path: Path, words: list[str], message: str
) -> None:
    done = metarun(*OPTUNA, *words)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("space", "choice"),
    [("rates", []), ("inner_loop", []), ("mlp", []), ("conv4", ["data=omniglot"])],
)
def test_every_ready_made_space_fits(metarun, omniglot_root: Path, space: str, choice: list[str]) -> None:
    small = [*FEW, "train.steps=1", "hydra.sweeper.n_trials=1"]
    done = metarun(*OPTUNA, f"search={space}", *choice, *small)
    assert done.returncode == 0, done.stderr


def test_what_a_search_was_begun_with_is_not_changed_by_what_is_refused(metarun, tmp_path: Path) -> None:
    small = [*FEW, "train.steps=2", "hydra.sweep.dir=search"]
    assert metarun(*OPTUNA, "inner.steps=1,2", "hydra.sweeper.n_trials=1", *small).returncode == 0
    before = (tmp_path / "search" / "sweep.json").read_bytes()
    for words, message in (
        (
            [*OPTUNA, "inner.steps=1,3", "hydra.sweeper.n_trials=2"],
            "the space of a search cannot change on resume",
        ),
        (["-m", "seed=0,1"], "holds a sweep of another kind (search)"),
        ([*OPTUNA, "inner.steps=1,2", "hydra.sweeper.study.sampler.seed=x"], "hydra.sweeper.study: "),
        ([*OPTUNA, "inner.steps=1,2", "hydra.sweeper.study.storage=nonsense"], "hydra.sweeper.study: "),
    ):
        refused = metarun(*words, *small)
        assert refused.returncode == 2, refused.stderr
        assert message in refused.stderr
        assert "Traceback" not in refused.stderr
    assert (tmp_path / "search" / "sweep.json").read_bytes() == before
    assert len(trials(tmp_path / "search")) == 1
    (tmp_path / "search" / "study.db").unlink()
    lost = metarun("resume", "search", "hydra.sweeper.n_trials=2")
    assert lost.returncode == 1
    assert "but not their study: restore study.db" in lost.stderr
