"""What `import metarun` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import metarun
from metarun.errors import ConfigError, MetarunError
from metarun.tasks import Sinusoid

FEW = ["train.steps=2", "train.log_every=1", "train.validation_tasks=4", "train.test_tasks=4", "device=cpu"]


def test_a_training_in_python_is_one_of_the_command(tmp_path: Path) -> None:
    run = metarun.train("algo=reptile", *FEW, directory=tmp_path / "a")
    assert run.results is not None
    assert run.config["algo"]["_target_"] == metarun.compose("algo=reptile")["algo"]["_target_"]
    assert run.manifest["seed"] == 0
    rows = run.metrics
    records = rows if isinstance(rows, list) else rows.to_dict("records")
    assert [row["step"] for row in records if row["split"] == "train"] == [1, 2]
    again = metarun.train("algo=reptile", *FEW, directory=tmp_path / "a")
    assert again == run
    assert hash(again) == hash(run)
    assert again.results == run.results
    with pytest.raises(ConfigError, match="holds a run that differs in"):
        metarun.train("algo=maml", *FEW, directory=tmp_path / "a")
    metarun.train("algo=maml", *FEW, directory=tmp_path / "b" / "c")
    assert metarun.runs(tmp_path) == [run, metarun.Run(tmp_path / "b" / "c")]
    assert repr(run) == f"metarun.Run({str(tmp_path / 'a')!r})"
    with pytest.raises(MetarunError):
        metarun.Run(tmp_path)
    with pytest.raises(ConfigError, match="there is no such folder"):
        metarun.runs(tmp_path / "nowhere")


def test_a_run_goes_to_outputs_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metarun.train(*FEW)
    assert len(metarun.runs()) == 1


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^algo=mamll: there is no such option; did you mean maml"):
        metarun.train("algo=mamll", directory=tmp_path / "a")
    with pytest.raises(ConfigError, match=r"data.way=5 and data.train_way=|uses no|train_way"):
        metarun.train("algo=maml", "data=mnist_5k", "data.train_way=3", directory=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_episodes_are_those_of_the_source() -> None:
    found = metarun.tasks("sinusoid", "test", shot=3, x_range=[-1.0, 1.0], train_shot=None)
    source = Sinusoid(shot=3, query=10, x_range=(-1.0, 1.0))
    expected = source.batch("test", 4, 3)
    assert torch.equal(found[4:7].query.x, expected.query.x)
    assert torch.equal(found[5].query.x[0], expected.query.x[1])
    for number, episode in enumerate(found):
        assert torch.equal(episode.support.x, episode.support.x)
        if number == 2:
            break
    for wrong in (-1, slice(3), slice(2, None), slice(0, 4, 2), slice(4, 2)):
        if wrong == slice(3):
            assert len(found[wrong]) == 3
            continue
        with pytest.raises(IndexError, match="expected a number from 0, or first:last"):
            found[wrong]
    with pytest.raises(ConfigError, match=r"val: expected one of train, validation, test"):
        metarun.tasks("sinusoid", "val")
    assert metarun.tasks("omniglot", split="lake").source.split == "lake"  # a key of the data
    with pytest.raises(ConfigError, match=r"data.wey=5: there is no such key; did you mean"):
        metarun.tasks("omniglot", wey=5)


def test_packages_may_be_called_whichever_was_imported_first(tmp_path: Path) -> None:
    code = (
        "import metarun.tasks, metarun.runs.directory; "
        "assert metarun.tasks.Sinusoid; "
        "print(len(metarun.tasks('sinusoid')[0:3]), len(metarun.runs('.')), bool(metarun.runs.directory))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, "3 0 True\n"), done.stderr
