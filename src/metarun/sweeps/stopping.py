"""Stopping a sweep at a point from which it can be resumed."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from metarun.errors import Interrupted
from metarun.runs.resuming import resume_command
from metarun.sweeps.directory import stop_file

log = logging.getLogger("metarun")


@contextmanager
def stopping(directory: Path, *, parallel: bool) -> Iterator[None]:
    """Let a signal stop the sweep so that it can be resumed.

    A job in this process handles the signal itself. Jobs in other processes see a file, finish their step and
    save; then the launcher returns. A second SIGINT ends the sweep at once, and the work of the jobs since
    their last checkpoints is lost.

    Raises:
        Interrupted: a signal was received.
    """
    message = f"the sweep was stopped; to go on: {resume_command(directory)}"
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if not parallel or (received and number == signal.SIGINT):
            raise Interrupted(message, number)
        received.append(number)
        stop_file(directory).touch()
        log.warning("stopping: the jobs finish their step (Ctrl-C again: at once)")

    stop_file(directory).unlink(missing_ok=True)
    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as stop:
        raise Interrupted(message, stop.signal_number) from stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        raise Interrupted(message, received[0])
