"""What only a GPU can show; skipped where there is none."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metarun.bench.cases import CASES, EMBEDDING
from metarun.bench.work import make_work
from metarun.engine.executor import Executor

AUGMENTED = ["data.train_augment=[flip,crop,colour]", "data.train_smoothing=0.1"]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("case", ["sinusoid-5", "conv4-5q", "conv4-5q-metasgd", *EMBEDDING])
def test_the_meta_gradient_is_that_of_the_cpu(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    found = []
    for name in ("cpu", "cuda"):
        work = make_work(CASES[case], torch.device(name), torch.float64, tasks=4)
        work.compute(Executor(replace(work.engine, chunk=2), work.learner))
        found.append({n: p.grad.cpu() for n, p in work.learner.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("algo", ["anp", "tnp_d", "rnn", "mann", "snail"])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_learner_that_reads_trains_on_the_gpu(metarun, tmp_path: Path, algo: str, bf16: bool) -> None:
    words = ["device=cuda", "train.steps=20", "train.test_tasks=50", "hydra.run.dir=run", "outer.lr=0.003"]
    done = metarun(f"algo={algo}", "data=gp", "data.shot=[2,9]", f"engine.bf16={str(bf16).lower()}", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0.5 < results["final"]["coverage"]["mean"] <= 1


@pytest.mark.parametrize("algo", ["maml", "simpleshot", "laplacianshot", "tim", "pt_map", "finetune"])
def test_a_run_trains_and_is_tested_on_the_gpu(
    metarun, tmp_path: Path, algo: str, request: pytest.FixtureRequest
) -> None:
    words = [f"algo={algo}", "device=cuda", "train.steps=20", "train.test_tasks=50", "hydra.run.dir=run"]
    if algo != "maml":
        request.getfixturevalue("omniglot_root")
        words += ["data=omniglot", "model.filters=8", "data.query_balance=dirichlet", *AUGMENTED]
    done = metarun(*words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "results.json").read_text())["tasks"] == 50
