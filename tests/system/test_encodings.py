"""Files and consoles in other encodings than UTF-8: nothing that is printed ends a run."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from metarun.cli.main import main
from metarun.config.composition import compose_config
from metarun.config.options import groups
from metarun.errors import ConfigError

TINY = ["device=cpu", "train.steps=2", "train.meta_batch=2", "train.validate_every=2"]
TINY += ["train.validation_tasks=2", "train.test_tasks=4"]
OPTION = "# metarun inner={name}\n# A café.\ndefaults: [sgd, _self_]\nlr: 0.02\n"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with an option in Latin-1, one with a byte-order mark, and a good one."""
    inner = tmp_path / "own" / "inner"
    inner.mkdir(parents=True)
    (inner / "latin.yaml").write_bytes(OPTION.format(name="latin").encode("latin-1"))
    (inner / "marked.yaml").write_bytes(OPTION.format(name="marked").encode("utf-8-sig"))
    (inner / "good.yaml").write_bytes(OPTION.format(name="good").encode())
    return tmp_path / "own"


def test_a_file_in_another_encoding_hides_no_other(own: Path) -> None:
    found = {option.name: option.description for option in groups([own])["inner"]}
    assert found == {"good": "A café.", "latin": "A caf\N{REPLACEMENT CHARACTER}.", "marked": "A café."}
    assert compose_config(["inner=good"], [str(own)])["inner"]["lr"] == 0.02


def test_what_is_no_file_hides_none(own: Path) -> None:
    (own / "inner" / ".#good.yaml").symlink_to("somebody@somewhere.1234")  # as an editor's lock
    (own / "inner" / "folder.yaml").mkdir()
    assert {option.name for option in groups([own])["inner"]} == {"good", "latin", "marked"}
    with pytest.raises(ConfigError, match=r"latin.yaml, line 2: not in UTF-8"):
        compose_config(["inner=latin"], [str(own)])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("latin", r"own/inner/latin.yaml, line 2: not in UTF-8; save it in that encoding"),
        ("marked", r"own/inner/marked.yaml: starts with a byte-order mark; save it in UTF-8 without one"),
    ],
)
def test_to_choose_it_is_one_line_that_names_it(own: Path, option: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_config([f"inner={option}"], [str(own)])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_a_console_cannot_show_is_shown_plainly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: object, encoding: str
) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    said = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", said)
    try:
        assert main([*TINY, 'hydra.run.dir="Größe-→"']) == 0
        assert main(["-m", "seed=0,1", *TINY, "hydra.sweep.dir=sweep"]) == 0
        assert main(["list"]) == 0
        assert main(['algo="→"']) == 2
    finally:
        monkeypatch.undo()
    out.flush()
    said.flush()
    shown = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert " ± " in shown if encoding != "ascii" else " +- " in shown
    assert "/Gr" in shown
    assert "algo=->: there is no such option" in said.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert (tmp_path / "Größe-→" / "results.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["stdin", "stdout", "stderr", "all"])
def test_a_process_without_a_console_trains(tmp_path: Path, cache: Path, closed: str) -> None:
    numbers = {"stdin": [0], "stdout": [1], "stderr": [2], "all": [0, 1, 2]}[closed]
    words = ["-m", "metarun", *TINY, "hydra.run.dir=run"]
    environment = {**os.environ, "METARUN_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    pid = os.fork()
    if pid == 0:
        os.chdir(tmp_path)
        for number in numbers:
            os.close(number)
        os.execve(sys.executable, [sys.executable, *words], environment)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert (tmp_path / "run" / "results.json").exists()
    for path in (tmp_path / "run").rglob("*"):  # nothing printed has gone into a file
        assert not path.is_file() or b"training:" not in path.read_bytes()


def test_a_full_disk_behind_stdout_is_said_and_the_run_is_kept(tmp_path: Path, cache: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "metarun", *TINY, "hydra.run.dir=run"],
            cwd=tmp_path,
            env={**os.environ, "METARUN_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "metarun: No space left on device on the standard output"
    assert (tmp_path / "run" / "results.json").exists()
