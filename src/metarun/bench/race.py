"""Sides in processes of their own that take turns, so that a noisy machine favours none."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from statistics import median
from typing import Any, Self

_FEWEST, _MOST = 3, 200


class Racer:
    """One side in its process, and what it has answered.

    Attributes:
        first_ms: milliseconds of its first meta-gradient, with what it compiles for it.
        peak_bytes: what that added to the process's memory at its peak; None where unknown.
        times: milliseconds of the meta-gradients after it.
        failed: how the process ended, where it did before the race.
    """

    def __init__(self, name: str, overrides: Sequence[str], device: str) -> None:
        self.first_ms = 0.0
        self.peak_bytes: int | None = None
        self.times: list[float] = []
        self.failed = ""
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (closed with the process)
        # In a session of its own, so that a terminal's Ctrl-C comes to this process alone, which ends that
        # one; and should this one be killed, its end of the pipe closes and that one ends by itself.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metarun.bench.side", name, device, *overrides],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._complaints.close()

    @property
    def ms(self) -> float:
        """The median of its times."""
        return median(self.times)

    def wait_until_ready(self) -> None:
        """Wait for its imports and its work to be done."""
        self._read()

    def take_first_turn(self) -> None:
        """Let it warm up, and keep what that needed."""
        if answer := self._ask():
            self.first_ms, self.peak_bytes = answer["ms"], answer["bytes"]

    def take_turn(self) -> None:
        """Let it compute one meta-gradient while the others wait."""
        if answer := self._ask():
            self.times.append(answer["ms"])

    def _ask(self) -> dict[str, Any] | None:
        if self.failed:
            return None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and reading will say how
            self._process.stdin.write("go\n")
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.failed = self._end()
        return None

    def _end(self) -> str:
        """Return how the process ended, in one line."""
        status = self._process.wait()
        if status < 0:
            hint = ", perhaps for want of memory" if -status == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}"
        self._complaints.seek(0)
        lines = self._complaints.read().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")


def race(names: Sequence[str], overrides: Sequence[str], device: str, seconds: float) -> dict[str, Racer]:
    """Let sides take turns at a work for about `seconds` in all, between 3 and 200 turns each.

    A side whose process ends is left behind; the race is over without the first, or with the first alone.
    """
    with Racer(names[0], overrides, device) as scout:
        scout.wait_until_ready()  # metarun measures what it remembers: the racer itself has that behind it
    with ExitStack() as stack:
        racers = [stack.enter_context(Racer(name, overrides, device)) for name in names]
        for racer in racers:
            racer.wait_until_ready()  # all of them: importing takes the cores that a turn is timed on
        for racer in racers:
            racer.take_first_turn()
        began = time.perf_counter()
        rounds = 0
        while _is_one(racers) and (
            rounds < _FEWEST or (time.perf_counter() - began < seconds and rounds < _MOST)
        ):
            # Every other round backwards: who comes after whom matters, for what is left in the caches.
            for racer in racers if rounds % 2 == 0 else reversed(racers):
                racer.take_turn()
            rounds += 1
        return dict(zip(names, racers, strict=True))


def _is_one(racers: list[Racer]) -> bool:
    first, *others = racers
    return not first.failed and any(not other.failed for other in others)
