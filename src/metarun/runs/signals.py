"""Stopping a run at a point from which it can be resumed, on a signal or at the end of its time."""

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
    """Inside this context the first signal is only recorded; a second SIGINT stops at once.

    Args:
        numbers: the signals.
        insist: whether a second SIGINT stops at once.
        asked: returns whether the run is asked to stop by other means; called after every outer step.
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
        """Let the first signal stop the run at once inside this context: there is no work to lose."""
        self._at_once = message
        try:
            if self.received:
                raise Interrupted(message, self.received)
            yield
        finally:
            self._at_once = ""

    def allow(self, seconds: float | None) -> None:
        """Set the time limit: the run is asked to stop after this many seconds; never if None."""
        self._deadline = None if seconds is None else time.monotonic() + seconds

    def __enter__(self) -> StopSignals:
        """Install the signal handlers; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in self._numbers:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.received = number
        if self._at_once:
            raise Interrupted(self._at_once, number)
        if self._insist:
            # Neither the log nor print: the signal may have interrupted one of them.
            with suppress(OSError):
                os.write(2, b"\nstopping: this step is finished first (Ctrl-C again: at once)\n")
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @property
    def reason(self) -> int:
        """Why the run should stop: 0 for no reason, a signal's number, or -1 for the end of its time."""
        if self.received is None and self._asked():
            self.received = signal.SIGTERM
        if self.received is not None:
            return self.received
        return -1 if self._deadline is not None and time.monotonic() > self._deadline else 0


def stop(reason: int, message: str) -> None:
    """Raise the error for a reason, with a message that says how to go on; do nothing for reason 0.

    Raises:
        Interrupted: a signal was received.
        OutOfTimeError: the time is over.
    """
    if reason > 0:
        raise Interrupted(message, reason)
    if reason < 0:
        raise OutOfTimeError(f"train.max_time is over: {message}")
