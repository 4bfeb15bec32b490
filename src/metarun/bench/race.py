"""A race: each side has its own process, and they take turns, so that noise affects all of them alike."""

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
    """One side of a race in its own process, with its measurements.

    Attributes:
        first_ms: milliseconds of its first meta-gradient, including compilation.
        peak_bytes: the growth of the process's memory at its peak during that; None if unknown.
        times: milliseconds of the later meta-gradients.
        failed: how the process ended, if it ended too early; else "".
    """

    def __init__(self, name: str, overrides: Sequence[str], device: str) -> None:
        self.first_ms = 0.0
        self.peak_bytes: int | None = None
        self.times: list[float] = []
        self.failed = ""
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  (see __exit__)
        # In its own session, so that Ctrl-C reaches only the parent, which then kills the child. If the
        # parent is killed, its end of the pipe closes and the child ends by itself.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "metarun.bench.side", name, device, *overrides],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            bufsize=1,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    @property
    def ms(self) -> float:
        """The median of its times in milliseconds."""
        return median(self.times)

    def wait_until_ready(self) -> None:
        """Wait until it has imported its library and prepared its work."""
        self._read()

    def take_first_turn(self) -> None:
        """Let it compute its first meta-gradient, and keep the time and memory of that."""
        if answer := self._request_turn():
            self.first_ms, self.peak_bytes = answer["ms"], answer["bytes"]

    def take_turn(self) -> None:
        """Let it compute one meta-gradient while the others wait."""
        if answer := self._request_turn():
            self.times.append(answer["ms"])

    def _request_turn(self) -> dict[str, Any] | None:
        if self.failed:
            return None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the process has ended; _read records how
            self._process.stdin.write("go\n")
        return self._read()

    def _read(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith("\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        self.failed = self._failure()
        return None

    def _failure(self) -> str:
        """Wait for the process and return how it ended, in one line."""
        status = self._process.wait()
        if status < 0:
            hint = ", perhaps out of memory" if -status == signal.SIGKILL else ""
            return f"ended by {signal.Signals(-status).name}{hint}"
        self._stderr.seek(0)
        lines = self._stderr.read().split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")


def race(names: Sequence[str], overrides: Sequence[str], device: str, seconds: float) -> dict[str, Racer]:
    """Let sides take turns at a work for about `seconds` in total, between 3 and 200 turns each.

    A side whose process ends drops out. The race ends early if the first side or all others drop out.
    """
    with Racer(names[0], overrides, device) as scout:
        scout.wait_until_ready()  # metarun measures chunk sizes and caches them, so that its racer need not
    with ExitStack() as stack:
        racers = [stack.enter_context(Racer(name, overrides, device)) for name in names]
        for racer in racers:
            racer.wait_until_ready()  # all before the first turn: importing uses the cores that a turn needs
        for racer in racers:
            racer.take_first_turn()
        began = time.perf_counter()
        rounds = 0
        while _can_go_on(racers) and (
            rounds < _FEWEST or (time.perf_counter() - began < seconds and rounds < _MOST)
        ):
            # Every other round backwards: the order matters, since a side leaves its data in the caches.
            for racer in racers if rounds % 2 == 0 else reversed(racers):
                racer.take_turn()
            rounds += 1
        return dict(zip(names, racers, strict=True))


def _can_go_on(racers: list[Racer]) -> bool:
    first, *peers = racers
    return not first.failed and any(not peer.failed for peer in peers)
