"""What the README shows is true: its classes run, its options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from metarun.options import CONF, groups

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FEW = ["train.steps=2", "train.meta_batch=2", "train.validation_tasks=2", "train.test_tasks=4"]

NODES = {
    "inner": {"_target_": "mine.SignDescent", "lr": 0.01, "steps": 5},
    "model": {"_target_": "mine.Cosine", "width": 16},
    "data": {"_target_": "mine.Letters", "way": 5, "shot": 2, "query": 3, "seed": 0},
    "algo": {"_target_": "mine.NearestMean"},
}


@pytest.mark.parametrize(
    "choices", [["inner"], ["model"], ["data", "model"], ["data", "model", "algo"]], ids="+".join
)
def test_the_classes_of_the_readme_run(metarun, tmp_path: Path, choices: list[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "mine.py").write_text("\n".join(blocks))
    for group, node in NODES.items():
        (tmp_path / "myconf" / group).mkdir(parents=True)
        (tmp_path / "myconf" / group / "own.yaml").write_text(yaml.safe_dump(node))
    classes = {"train": 16, "validation": 5, "test": 5}
    letters = {s: torch.randint(0, 256, (n, 50, 1, 32, 32), dtype=torch.uint8) for s, n in classes.items()}
    torch.save(letters, tmp_path / "letters.pt")
    done = metarun("--config-dir", "myconf", *(f"{group}=own" for group in choices), *FEW)
    assert done.returncode == 0, done.stderr
    assert ("accuracy" in done.stdout) == ("data" in choices)


def test_the_options_of_the_readme_are_those_of_conf() -> None:
    for group, options in groups([CONF]).items():
        row = re.search(rf"^\| `{group}` \| (.*?) \|", README, re.MULTILINE)
        assert row, group
        shown = set(re.findall(r"`(\w+)`", row[1]))
        assert group == "experiment" or shown == {option.name for option in options}
    experiments = re.findall(r"experiment=(\w+)", README)
    assert set(experiments) <= {option.name for option in groups([CONF])["experiment"]}
