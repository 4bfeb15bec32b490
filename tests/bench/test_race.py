"""Sides in real processes: they take turns, they may die, and they never outlive the bench."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from metarun.bench import rows
from metarun.bench.cases import CASES
from metarun.bench.race import race
from metarun.bench.sides import PEERS
from metarun.bench.torch_peers import per_task_loop
from metarun.bench.work import Side

KEYS = {"case", "peer", "tasks", "steps", "device", "threads", "processor", "torch", "python", "error"}
MEASURED = {"ratio", "metarun_ms", "peer_ms", "metarun_first_ms", "peer_first_ms"}
PEAKS = {"metarun_peak_bytes", "peer_peak_bytes"}


def test_a_race_has_every_side_take_as_many_turns() -> None:
    racers = race(["metarun", "loop"], CASES["sinusoid-1"], "cpu", seconds=0.2)
    assert list(racers) == ["metarun", "loop"]
    turns = [len(racer.times) for racer in racers.values()]
    assert turns[0] == turns[1] >= 3
    for racer in racers.values():
        assert not racer.failed
        assert racer.first_ms > 0
        assert min(racer.times) > 0
        assert racer.peak_bytes is None or racer.peak_bytes >= 0


def test_a_side_that_dies_is_reported_and_the_others_are_raced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Packages that do this when they are imported, in the peers' processes only: here all is well.
    (tmp_path / "higher.py").write_text("print('noise')\nraise ImportError('out of luck')")
    (tmp_path / "torchopt.py").write_text("import os; os.kill(os.getpid(), 9)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peers = ["higher", "torchopt", "loop"]
    higher, torchopt, loop = rows.compare("sinusoid-1", CASES["sinusoid-1"], peers, "cpu", 0.1)
    assert higher["failed"] == "ImportError: out of luck"
    assert torchopt["failed"] == "ended by SIGKILL, perhaps out of memory"
    assert not MEASURED & (higher.keys() | torchopt.keys())
    assert loop.keys() == KEYS | MEASURED | PEAKS


def test_a_race_without_metarun_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every process imports this module as it starts; the side called metarun ends there.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif 'metarun' in sys.orig_argv: os._exit(3)\n",
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    racers = race(["metarun", "loop"], CASES["sinusoid-1"], "cpu", seconds=60)
    assert racers["metarun"].failed == "exit status 3"
    assert racers["loop"].failed == ""
    assert racers["loop"].times == []


def test_a_wrong_side_is_not_raced(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(work) -> Side:
        def compute() -> None:
            per_task_loop(work)
            work.learner.model.head.bias.grad *= 1.001

        return Side(compute)

    monkeypatch.setitem(PEERS, "loop", replace(PEERS["loop"], start=wrong))
    monkeypatch.delattr(rows, "race")
    (row,) = rows.compare("sinusoid-1", CASES["sinusoid-1"], ["loop"], "cpu", 0.1)
    assert row.keys() == KEYS
    assert 1e-7 < row["error"] < 1e-3


def test_a_side_that_fails_its_check_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(work) -> Side:
        raise RuntimeError("not today")

    monkeypatch.setitem(PEERS, "loop", replace(PEERS["loop"], start=fails))
    (row,) = rows.compare("sinusoid-1", CASES["sinusoid-1"], ["loop"], "cpu", 0.1)
    assert row["failed"] == "RuntimeError: not today"
    assert "ratio" not in row


@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are looked for in /proc")
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_no_side_outlives_the_bench(stop: signal.Signals, tmp_path: Path) -> None:
    command = ["bench", "--only", "sinusoid-1", "--peer", "loop", "--seconds", "60"]
    # Where a shell runs the tests in the background they ignore Ctrl-C, and what they start would, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    bench = subprocess.Popen(
        [sys.executable, "-m", "metarun", *command], cwd=tmp_path, stderr=subprocess.PIPE
    )
    signal.signal(signal.SIGINT, before)
    until(lambda: len(sides_of(bench.pid)) == 2)
    sides = sides_of(bench.pid)
    bench.send_signal(stop)
    _, complaint = bench.communicate(timeout=60)
    assert bench.returncode == (130 if stop == signal.SIGINT else -signal.SIGKILL)
    said = complaint.decode().splitlines()
    assert said.pop(0).endswith(": sinusoid-1 inner.steps=1 against loop")  # what it is doing
    assert said == (["metarun: interrupted"] if stop == signal.SIGINT else [])
    until(lambda: not any(is_alive(side) for side in sides))


def sides_of(pid: int) -> list[str]:
    """The children that are sides by now; others come and go while torch is imported."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):
            if b"metarun.bench.side" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(process: str) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # a zombie has ended; nobody has asked how
