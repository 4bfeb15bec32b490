"""What a terminal shows while runs and sweeps are on their way, and what a log shows."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from metarun.reports.text_curve import blocks, text_curve
from metarun.tasks import Measure

FEW = [
    "device=cpu",
    "train.meta_batch=2",
    "train.validation_tasks=4",
    "train.test_tasks=4",
    "model.hidden=[4]",
]


def on_a_terminal(folder: Path, *words: str, encoding: str = "utf-8") -> str:
    """All that the command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "metarun", *words],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"},
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's end of a terminal
            break
        if not part:
            break
        written += part
    os.close(ours)
    text = written.decode(encoding)
    assert process.wait(60) == 0, text
    return text


def test_a_run_shows_its_step_its_scores_the_best_and_its_speed(tmp_path: Path) -> None:
    words = [*FEW, "train.steps=3000", "train.log_every=50", "train.validate_every=500"]
    shown = on_a_terminal(tmp_path, *words, "hydra.run.dir=it is")
    bars = re.findall(r"training: [^\r\n]*", shown)
    last = bars[-1]
    assert re.match(r"training: 100%\|.*\| 3000/3000 \[\d\d:\d\d<00:00, ", last)
    assert re.search(r"loss [\d.]+, best validation loss [\d.]+, [\d,]+ tasks/s", last)
    assert re.search(r"\[\d\d:\d\d<\d\d:\d\d, loss", bars[len(bars) // 2])  # the time that is left
    assert re.search(r"validation loss: [\d.]+ [▁-█]{6} [\d.]+\r\n", shown)
    assert f"to see it: metarun report '{tmp_path}/it is'\r\n" in shown
    assert shown.rstrip().endswith(f"run: {tmp_path}/it is")


def test_a_terminal_that_cannot_show_blocks_does_without(tmp_path: Path) -> None:
    words = [*FEW, "train.steps=4", "train.validate_every=2", "hydra.run.dir=run"]
    shown = on_a_terminal(tmp_path, *words, encoding="latin-1")
    assert "validation loss:" not in shown
    assert f"to see it: metarun report {tmp_path}/run" in shown


@pytest.mark.slow
def test_a_sweep_has_one_bar_over_its_jobs_with_a_launcher_too(tmp_path: Path) -> None:
    words = ["-m", *FEW, "train.steps=2", "seed=0,1,2", "inner.lr=0.01,1e30"]
    for launcher in ([], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]):
        folder = f"hydra.sweep.dir=sweep{len(launcher)}"
        with pytest.raises(AssertionError) as ended:  # the jobs that diverge make it fail
            on_a_terminal(tmp_path, *words, folder, *launcher)
        shown = str(ended.value)
        bars = re.findall(r"jobs: [^\\]*", shown)
        assert "6/6" in bars[-1]
        assert "3 failed" in bars[-1]


def test_a_log_has_lines_and_no_bars(metarun) -> None:
    done = metarun(*FEW, "train.steps=200", "train.validate_every=100", "hydra.run.dir=run")
    assert done.returncode == 0
    for text in (done.stdout, done.stderr):
        assert "training:" not in text
        assert "\r" not in text
        assert "█" not in text
    assert "to see it" not in done.stdout


def test_blocks_are_means_between_the_least_and_the_largest() -> None:
    assert blocks([0.0, 1.0]) == "▁█"
    assert blocks([2.0, 2.0, 2.0]) == "▁▁▁"
    assert blocks([float("nan"), 1.0, 2.0]) == " ▁█"
    assert blocks([float(i) for i in range(1000)], 8) == "▁▂▃▄▅▆▇█"
    accuracy = Measure("accuracy", higher_is_better=True, percent=True)
    rows = [{"split": "validation", "accuracy": value} for value in (0.5, 0.75)]
    assert text_curve(rows[:1], accuracy) == ""
    assert text_curve([{"split": "train", "accuracy": 0.1}, *rows], accuracy).endswith("50.0 % ▁█ 75.0 %")
