"""What the README shows is true: its classes run, its options exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from metarun.config.options import CONF, groups

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
FEW = ["train.steps=2", "train.meta_batch=2", "train.validation_tasks=2", "train.test_tasks=4"]

CHOICES = [
    ["inner=sign"],
    ["model=cosine"],
    ["data=letters", "model=cosine"],
    ["data=letters", "algo=centroid"],
]


@pytest.mark.parametrize("choices", CHOICES, ids="+".join)
def test_the_classes_and_yaml_files_of_the_readme_run(metarun, tmp_path: Path, choices: list[str]) -> None:
    (tmp_path / "mine.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)))
    for path, text in re.findall(r"```yaml\n# (\S+)\n(.*?)```", README, re.DOTALL):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    classes = {"train": 16, "validation": 5, "test": 5}
    letters = {s: torch.randint(0, 256, (n, 50, 1, 32, 32), dtype=torch.uint8) for s, n in classes.items()}
    torch.save(letters, tmp_path / "letters.pt")
    done = metarun("--config-dir", "myconf", *choices, *FEW)
    assert done.returncode == 0, done.stderr
    assert ("accuracy" in done.stdout) == ("data=letters" in choices)


def test_no_number_of_the_readme_is_left_open() -> None:
    assert not re.findall(r"@[A-Z0-9]+@", README)


def test_the_options_of_the_readme_are_those_of_conf() -> None:
    for group, options in groups([CONF]).items():
        row = re.search(rf"^\| `{group}` \| (.*?) \|", README, re.MULTILINE)
        assert row, group
        shown = set(re.findall(r"`([\w+]+)`", row[1]))
        assert group == "experiment" or shown == {option.name for option in options}
    experiments = re.findall(r"experiment=(\w+)", README)
    assert set(experiments) <= {option.name for option in groups([CONF])["experiment"]}
