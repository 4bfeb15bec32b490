"""A directory held by one process, and the log that is copied into it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import Timeout

from metarun.errors import MetarunError
from metarun.system.files import file_lock

log = logging.getLogger("metarun")


class InUseError(MetarunError):
    """Another process works in the directory."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory for this process.

    Raises:
        InUseError: another process holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = file_lock(directory / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InUseError(
            f"{directory} is in use by another process: wait for it, or stop it (if there is none, on any "
            f"machine, delete {lock.lock_file})"
        ) from error
    try:
        yield
    finally:
        lock.release()


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """Let a full disk stop the run at its next checkpoint, in one line, and not every log line with many.

        An error of our own making is shown as always.
        """
        kind = sys.exc_info()[0]
        if kind is None or not issubclass(kind, OSError):
            super().handleError(record)


@contextmanager
def copied_log(path: Path) -> Iterator[logging.Handler]:
    """Copy metarun's log into a file as long as this is entered."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S %z"))
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # what a full disk did not take
            handler.close()
