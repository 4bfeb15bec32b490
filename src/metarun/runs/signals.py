"""Stopping well: signals and the end of the time are noted, and the run stops where it can be continued."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

from metarun.errors import Interrupted, OutOfTimeError


class StopSignals:
    """While entered, a first signal is only noted; a second SIGINT stops at once.

    Args:
        numbers: the signals.
        insist: whether a second SIGINT stops at once.
        asked: says whether somebody asks the run to stop in another way; called after every outer move.
    """

    def __init__(
        self,
        numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM),
        *,
        insist: bool = True,
        asked: Callable[[], bool] = lambda: False,
    ) -> None:
        self.received: int | None = None
        self._numbers, self._insist, self._asked = numbers, insist, asked
        self._previous: dict[int, Any] = {}
        self._deadline: float | None = None
        self._at_once = ""

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """Let the first signal stop the run within: nothing has been computed that could be lost."""
        self._at_once = message
        try:
            if self.received:
                raise Interrupted(message, self.received)
            yield
        finally:
            self._at_once = ""

    def allow(self, seconds: float | None) -> None:
        """Ask the run to stop so many seconds from now, if it is to stop by itself at all."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def __enter__(self) -> StopSignals:
        """Take over the signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give them back."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = number
        if self._at_once:
            raise Interrupted(self._at_once, number)
        if self._insist:
            # Not by the log, or print, in which the signal may have come.
            with suppress(OSError):
                os.write(2, b"\nstopping: this step is finished first (Ctrl-C again: at once)\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def reason(self) -> int:
        """What asks the run to stop: nothing (0), a signal's number, or the end of its time (-1)."""
        if self.received is None and self._asked():
            self.received = signal.SIGTERM
        if self.received is not None:
            return self.received
        return -1 if self._deadline is not None and time.monotonic() > self._deadline else 0


def stop(reason: int, message: str) -> None:
    """Raise what a reason calls for, with how to go on; nothing where there is no reason.

    Raises:
        Interrupted: a signal has come.
        OutOfTimeError: the time is over.
    """
    if reason > 0:
        raise Interrupted(message, reason)
    if reason < 0:
        raise OutOfTimeError(f"train.max_time is over: {message}")
