"""Stopping a sweep where it can be continued."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from metarun.errors import Interrupted
from metarun.runs.directory import resume_command
from metarun.sweeps.directory import stop_file

log = logging.getLogger("metarun")


@contextmanager
def stopping(directory: Path, *, parallel: bool) -> Iterator[None]:
    """Let a signal stop the sweep where it can be continued.

    A job of this process sees to itself. Those of other processes are told by a file, finish their step, and
    the launcher returns; a second signal ends the sweep at once, and what they have done since their last
    checkpoint is done again.

    Raises:
        Interrupted: a signal came.
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
