"""A lock on a directory, and a copy of the log in it."""

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

_SECONDS = 0.2


class InUseError(MetarunError):
    """Another process has locked the directory."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Lock a directory for this process.

    Raises:
        InUseError: another process has locked it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    lock = file_lock(directory / ".lock")
    try:
        lock.acquire(timeout=_SECONDS, poll_interval=0.02)  # metarun runs tries every lock for a moment
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
        """Ignore an OSError: a full disk stops the run at its next checkpoint, with one line.

        Any other error is a mistake in the code, and is shown as usual.
        """
        error_type = sys.exc_info()[0]
        if error_type is None or not issubclass(error_type, OSError):
            super().handleError(record)


@contextmanager
def copied_log(path: Path) -> Iterator[logging.Handler]:
    """Copy metarun's log into a file inside this context."""
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S %z"))
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)
        with suppress(OSError):  # closing flushes, which fails on a full disk
            handler.close()
