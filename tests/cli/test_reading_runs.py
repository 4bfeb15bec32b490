"""Runs of learners that read: curves over examples, one table for all, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from metarun.evaluation.curve import Curve

Typed = Callable[..., tuple[int, str, str]]

FEW = [
    *("device=cpu", "engine.chunk=4", "train.meta_batch=4", "train.steps=20", "train.validate_every=10"),
    *("train.validation_tasks=8", "train.test_tasks=20"),
]
CNP = ["algo=cnp", "algo.width=8"]
TABLES = ["data=tabular_prior", "data.width=16", "data.features=[2,8]", "data.shot=[8,16]", "data.query=8"]


def newest(folder: str) -> dict[str, object]:
    path = max(Path(folder, "evaluations").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    content: dict[str, object] = json.loads(path.read_text())
    return content


def test_one_run_learns_every_size_and_is_tested_after_every_example(typed: Typed) -> None:
    status, printed, said = typed(*CNP, "data=gp", "data.shot=[3,8]", *FEW, "hydra.run.dir=run")
    assert status == 0, said
    assert "context examples" not in printed  # sizes are drawn: one number over all of them
    status, printed, said = typed("eval", "run", "data.shot=12")
    assert status == 0, said
    lines = [line.split() for line in printed.splitlines()]
    assert [line[0] for line in lines[3:14]] == [*map(str, range(1, 11)), "12"]
    kept = newest("run")
    assert kept["axis"] == "context examples"
    curve = Curve.from_dict(kept)  # type: ignore[arg-type]
    assert curve.numbers == (*range(1, 11), 12)
    assert curve.as_dict()["curve"] == kept["curve"]
    status, printed, _ = typed("eval", "run", "data.shot=12", "train.test_curve=false")
    assert status == 0
    assert len(newest("run")["curve"]) == 1  # type: ignore[arg-type]
    assert newest("run")["final"] == kept["final"]


def test_shots_of_classes_and_no_curve_of_one_shot(typed: Typed, omniglot_root: Path) -> None:
    words = ["algo=protonet", "data=omniglot", "model.filters=4", *FEW, "train.steps=2", "data.way=3"]
    for shot, axis, steps in ((1, None, [0]), (3, "shots", [1, 2, 3])):
        status, printed, said = typed(*words, f"data.shot={shot}", f"hydra.run.dir=run{shot}")
        assert status == 0, said
        results = json.loads(Path(f"run{shot}/results.json").read_text())
        assert results["axis"] == axis
        assert [point["step"] for point in results["curve"]] == steps
        assert ("  shots" in printed) == (shot > 1)


def test_learners_with_and_without_distributions_are_in_one_table(typed: Typed) -> None:
    words = ["-m", "algo=cnp,maml,metasgd", "data=sinusoid", *FEW, "train.steps=4", "hydra.sweep.dir=sweep"]
    status, printed, said = typed(*words)
    assert status == 0, said
    heads, rows = [], {}
    for line in printed.splitlines():
        if line.startswith("algo"):
            heads = line.split()
        if line.startswith(("cnp", "maml", "metasgd")):
            rows[line.split()[0]] = line
    assert heads == ["algo", "loss", "mse", "nll", "coverage", "(%)", "finished"]
    assert rows["maml"].count("–") == rows["metasgd"].count("–") == 2
    assert "–" not in rows["cnp"]
    results = json.loads(Path("sweep/1/results.json").read_text())
    assert results["final"]["nll"] == results["final"]["coverage"] == {"mean": None, "ci95": None}
    assert results["final"]["mse"] == results["final"]["loss"]
    # The same numbers without a distribution are shown once, and both kinds can be compared.
    status, printed, said = typed("diff", "sweep/0", "sweep/1")
    assert status == 0, said
    assert "coverage" in printed
    status, printed, _ = typed("eval", "sweep/1")
    assert "mse" not in printed


def test_jobs_with_several_seeds_have_a_deviation_or_none(typed: Typed) -> None:
    words = [
        "-m",
        "algo=cnp,maml",
        "seed=0,1",
        "data=sinusoid",
        *FEW,
        "train.steps=2",
        "hydra.sweep.dir=sweep",
    ]
    status, printed, said = typed(*words)
    assert status == 0, said
    maml = next(line for line in printed.splitlines() if line.startswith("maml"))
    assert maml.count("–") == 2


def test_the_best_possible_is_in_the_table_and_takes_no_training(typed: Typed) -> None:
    words = ["-m", "algo=cnp,gp_oracle", "data=gp", "data.shot=4", *FEW, "train.test_tasks=200"]
    status, _, said = typed(*words, "hydra.sweep.dir=sweep")
    assert status == 0, said
    results = [json.loads(Path(f"sweep/{job}/results.json").read_text()) for job in (0, 1)]
    assert results[1]["final"]["loss"]["mean"] < results[0]["final"]["loss"]["mean"]
    assert [result["checkpoint_step"] > 0 for result in results] == [True, False]


def test_a_prior_fitted_network_is_tested_beside_classical_models(typed: Typed) -> None:
    words = ["algo=pfn", "algo.size=tiny", *TABLES, "data.most_classes=10", "data.width=64"]
    status, _, said = typed(*words, *FEW, "train.steps=2", "train.validate_every=0", "hydra.run.dir=run")
    assert status == 0, said
    status, printed, said = typed("tables", "run", "--halves", "2", "--rows", "40")
    assert status == 0, said
    lines = [line for line in printed.splitlines() if line]
    assert lines[1].split() == ["breast", "cancer", "wine", "iris", "digits", "mean"]
    assert [line[:18].strip() for line in lines[3:7]] == [
        *("this run", "linear model", "random forest", "nearest neighbours"),
    ]
    predictors = newest("run")["predictors"]
    assert isinstance(predictors, list)
    linear = {table: curve["final"]["accuracy"]["mean"] for table, curve in predictors[1]["tables"].items()}
    assert min(linear.values()) > 0.7
    assert all(curve["tasks"] == 2 for curve in predictors[0]["tables"].values())
    status, printed, said = typed("tables", "run", "algo.ensemble=2", "--halves", "2", "--rows", "40")
    assert status == 0, said
    both = newest("run")["predictors"]
    assert isinstance(both, list)
    assert both[1:] == predictors[1:]
    assert both[0] != predictors[0]
    status, printed, said = typed("eval", "run", "data=tables", "data.table=iris", "train.test_tasks=3")
    assert status == 0, said


def test_and_of_values_beside_ridge_regression(typed: Typed) -> None:
    words = ["algo=pfn", "algo.size=tiny", *TABLES, "data.target=values", "data.classes=[2,4]"]
    status, _, said = typed(*words, *FEW, "train.steps=2", "hydra.run.dir=run")
    assert status == 0, said
    status, printed, said = typed("tables", "run", "--halves", "2")
    assert status == 0, said
    assert "mean square error, of standardised values" in printed
    assert "diabetes" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["algo=pfn", "data=tables"],
            "these are a few real tasks, to be tested on: type metarun eval RUN data=",
        ),
        (["algo=gp_oracle", "data=sinusoid"], "which this data does not tell: type data=gp"),
        (["algo=bayes_oracle", "data=binary_classification"], "does not tell: type data=gaussian_classes"),
        (["algo=ridge_oracle", "data=sinusoid"], "which this data does not tell: type algo.regularisation=1"),
        (["algo=gp_oracle", "data=gaussian_classes"], "its targets are classes, and algo._target_="),
        (
            ["algo=icl", "data=linear_icl", "data.shot=65"],
            "algo.positions=64: a support set has 65 examples: type",
        ),
        (
            ["algo=icl", "algo.causal=false"],
            "algo.causal=false and algo.positions=64 do not agree: type algo.pos",
        ),
        (["algo=cnp", "data=gp", "data.shot=[5,3]"], "data.shot=[5, 3]: should be"),
        (["algo=cnp", "data=gp", "data.shot=[0,3]"], "data.shot=[0, 3]: should be"),
        (["algo=cnp", "data=gp", "data.scale=[0,1]"], "data.scale=[0, 1]: should be greater than 0"),
        (
            ["algo=cnp", "engine.compile=true"],
            "the number of support examples that count follows from",
        ),
        (
            ["algo=cnp", "engine.bf16=true", "device=cpu"],
            "engine.bf16=true is for a GPU, and device=cpu",
        ),
        (["algo=cnp", "inner=sgd"], "uses no inner, so its keys would have no effect: type inner=none"),
        (
            ["algo=cnp", "data=gp", "model.norm=batch", "model=mlp", "engine.chunk=4"],
            "engine.chunk=4: tasks of different sizes are computed one after another, since its batch norms",
        ),
        (["algo=leo", "data=sinusoid"], "its targets are values, and algo._target_="),
        (["algo=leo", *TABLES], "LEO would count the classes that smaller tasks do not have: type algo=prot"),
        (["algo=mann", "algo.heads=200"], "algo.heads=200 exceeds algo.places=128: type algo.heads=4"),
        (
            ["algo=pfn", *TABLES, "data.features=[2,99]"],
            "data.features=[2, 99] exceeds data.width=16: type data.",
        ),
        (["tables", "nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(typed: Typed, words: list[str], message: str) -> None:
    status, _, said = typed(*words, *([] if words[0] == "tables" else FEW))
    error = said.splitlines()[-1]
    assert status in (1, 2)
    assert error.startswith("metarun: ")
    assert message in error


def test_tables_needs_a_run_on_tables(typed: Typed) -> None:
    assert typed(*FEW, "train.steps=2", "hydra.run.dir=run")[0] == 0
    status, _, said = typed("tables", "run")
    assert (status, said.count("\n")) == (2, 1)
    assert "it was trained on metarun.tasks.Sinusoid: expected data=tabular_prior" in said
    status, _, said = typed("tables", "run", "--halves", "0")
    assert (status, said) == (2, "metarun: --halves 0: should be 1 or more\n")
