"""Stopping well: SIGINT and SIGTERM are noted, and the run stops where it can be continued."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from metarun.errors import Interrupted


class StopSignals:
    """While entered, a first SIGINT or SIGTERM is only noted; a second SIGINT stops at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Take over the two signals; only the main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
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
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def stop_if_received(self, message: str) -> None:
        """Raise Interrupted, with how to go on, if a signal has come."""
        if self.received is not None:
            raise Interrupted(message, self.received)
