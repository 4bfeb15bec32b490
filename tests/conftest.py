"""What several tests need: real data where it is there, a cache of their own, and the real command line."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import zygote
from hypothesis import settings

# Pictures of a person, and runs on them.
pytest_plugins = ["own_fixtures"]

CommandLine = Callable[..., subprocess.CompletedProcess[str]]


settings.register_profile("short", max_examples=100, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)


def pytest_configure() -> None:
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))
    # Tests run on all cores at once, each with one thread.
    torch.set_num_threads(1)
    # A shell starts its background jobs with SIGINT ignored, and the processes of tests would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def omniglot_root() -> Path:
    """The folder of the real archives, from METARUN_DATA."""
    root = Path(os.environ.get("METARUN_DATA", "nowhere"))
    if not (root / "omniglot" / "images_background.zip").exists():
        pytest.skip("METARUN_DATA does not name a folder with omniglot/images_background.zip")
    return root


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all tests, so that the archives are read once (workers wait for one another)."""
    return tmp_path_factory.getbasetemp().parent / "metarun-cache"


@pytest.fixture(autouse=True)
def shared_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same cache for what runs in the test's own process."""
    monkeypatch.setenv("METARUN_CACHE", str(cache))
    return cache


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What metarun says from now on, each line once, whatever console it has been given."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep = Keep()
    logging.getLogger("metarun").addHandler(keep)
    yield lines
    logging.getLogger("metarun").removeHandler(keep)


@pytest.fixture
def typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """metarun in this process, in an empty directory: its status, what it printed, and what it said."""
    from metarun.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["metarun"])
    for name in (
        "METARUN_SWEEP_PROCESS",
        "HYDRA_FULL_ERROR",
    ):  # which it sets, and later tests should not see
        monkeypatch.setenv(name, "")

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        said = capsys.readouterr()
        return status, said.out, said.err

    log = logging.getLogger("metarun")
    before = list(log.handlers), log.level, log.propagate
    yield run
    log.handlers, level, log.propagate = before
    log.setLevel(level)


@pytest.fixture
def metarun(tmp_path: Path, cache: Path) -> CommandLine:
    """The real command, in an empty directory: metarun("algo=maml", …) → the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        own = {**os.environ, "METARUN_CACHE": str(cache), "OMP_NUM_THREADS": "1", **environment}
        if zygote.fits(own):
            with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
                process = zygote.fork(list(arguments), tmp_path, own, out, err)
                status = process.wait(timeout=300)
                out.seek(0)
                err.seek(0)
                return subprocess.CompletedProcess(list(arguments), status, out.read(), err.read())
        return subprocess.run(
            [sys.executable, "-m", "metarun", *arguments],
            cwd=tmp_path,
            env=own,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
