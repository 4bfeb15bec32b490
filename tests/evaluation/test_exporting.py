"""A learner that has seen examples, as one function: the same numbers in torch.export and in onnxruntime."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_runs import few, trained

from metarun.evaluation.prediction.opened import opened
from metarun.evaluation.prediction.own_examples import read_query

Typed = Callable[..., tuple[int, str, str]]
onnxruntime = pytest.importorskip("onnxruntime")


def in_onnx(path: Path, x: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    session = onnxruntime.InferenceSession(str(path))
    about = session.get_modelmeta().custom_metadata_map["metarun"]
    return session.run(None, {"x": x})[0], json.loads(about)


def in_torch(path: Path, x: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    files = {"metarun.json": ""}
    program = torch.export.load(path, extra_files=files)
    with torch.no_grad():
        found = program.module()(torch.from_numpy(x)).numpy()
    return found, json.loads(files["metarun.json"])


@pytest.mark.parametrize("algo", ["protonet", "maml", "r2d2", "baseline"])
def test_images_have_the_same_probabilities_elsewhere(
    typed: Typed, runs: Any, pictures: Path, tmp_path: Path, algo: str
) -> None:
    support, query = few(pictures, tmp_path)
    run = str(runs(algo))
    model = opened(Path(run), support)
    ((_, x),) = read_query(query, model.usable.reading, model.usable.dtype).parts(100)
    expected = model.probabilities(x).numpy()
    assert typed("adapt", run, "--support", str(support), "--out", "a.safetensors")[0] == 0
    for words, read in ((["--out", "a.onnx"], in_onnx), (["--format", "torch", "--out", "a.pt2"], in_torch)):
        for source in ([run, "--support", str(support)], ["a.safetensors"]):
            status, printed, said = typed("export", *source, *words)
            assert status == 0, said
            assert "[n, 3, 8, 8] to probabilities of kind 00, kind 01, kind 02" in printed
            found, about = read(Path(words[-1]), x.numpy())
            np.testing.assert_allclose(found, expected, atol=1e-5)
            assert read(Path(words[-1]), x[:1].numpy())[0].shape == (1, 3)  # any number of examples
            assert about["classes"] == model.classes
            assert (about["input"], about["reading"]["size"]) == ("uint8", 8)


def test_rows_are_scaled_inside(typed: Typed, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(90, 3)) * [1, 100, 0.01] + [5, 0, 3]
    np.savez("a.npz", x=x, y=np.arange(90) % 9)
    words = ["algo=protonet", "data=arrays", "data.file=a.npz", "data.way=2", "data.shares=[0.34,0.33,0.33]"]
    run = trained(tmp_path / "run", *words, "data.query=2", "data.shot=2", "model=mlp")
    np.savez("s.npz", x=x[:12], y=np.arange(12) % 3)
    model = opened(run, Path("s.npz"))
    raw = x[12:20].astype(np.float32)
    raw[0, 1] = np.nan
    np.savez("q.npz", x=raw)
    ((_, inputs),) = read_query(Path("q.npz"), model.usable.reading, model.usable.dtype).parts(100)
    for words, read in ((["--out", "a.onnx"], in_onnx), (["--format", "torch", "--out", "a.pt2"], in_torch)):
        status, _, said = typed("export", str(run), "--support", "s.npz", *words)
        assert status == 0, said
        found, about = read(Path(words[-1]), raw)
        np.testing.assert_allclose(found, model.probabilities(inputs).numpy(), atol=1e-5)
        assert about["reading"]["columns"] == ["x"]


def test_numbers_are_in_their_units(typed: Typed, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", "algo=maml", "data=sinusoid", "data.shot=5")
    x = np.linspace(-1, 1, 5, dtype=np.float32)[:, None]
    np.savez("s.npz", x=x, y=np.sin(x[:, 0]))
    model = opened(run, Path("s.npz"))
    expected = model.values(torch.from_numpy(x)).mean.numpy()
    assert typed("export", str(run), "--support", "s.npz", "--out", "a.onnx")[0] == 0
    found, about = in_onnx(Path("a.onnx"), x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert about["output"] == "values"


def test_what_depends_on_the_others_is_refused(
    typed: Typed, pictures: Path, tmp_path: Path, runs: Any
) -> None:
    support, _ = few(pictures, tmp_path)
    protonet = str(runs("protonet"))
    words = [
        "data=folder",
        f"data.root={pictures}",
        "data.size=8",
        "data.query=3",
        "data.way=3",
        "data.shot=2",
    ]
    shares = "data.shares=[0.4,0.4,0.2]"
    run = trained(tmp_path / "run", "algo=maml", *words, shares, "model=mlp", "model.norm=batch")
    status, _, said = typed("export", str(run), "--support", str(support), "--out", "a.onnx")
    assert (status, said.count("\n")) == (1, 1)
    assert "each prediction of this learner depends on the others" in said
    assert not Path("a.onnx").exists()
    for wrong, why in (
        (["--out", "no/a.onnx", "--support", str(support)], "expected a file in an existing folder"),
        (["--out", "a.onnx"], "--support is missing"),
    ):
        status, _, said = typed("export", protonet, *wrong)
        assert (status, said.count("\n")) == (2, 1)
        assert why in said


@pytest.mark.slow
def test_the_command_says_nothing_else(runs: Any, pictures: Path, tmp_path: Path) -> None:
    support, _ = few(pictures, tmp_path)
    command = [sys.executable, "-m", "metarun", "export", str(runs("protonet")), "--support", str(support)]
    done = subprocess.run(
        [*command, "--out", "a.onnx"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1
