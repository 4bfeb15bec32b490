"""Where metarun keeps its files, and how it writes them atomically."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

log = logging.getLogger("metarun")


def cache_directory() -> Path:
    """Return the folder of files that can be computed again: METARUN_CACHE, else the user's cache."""
    return Path(os.environ.get("METARUN_CACHE") or user_cache_path("metarun")).expanduser()


def data_directory() -> Path:
    """Return the folder in which datasets are looked for and stored: METARUN_DATA, else a cache folder."""
    folder = os.environ.get("METARUN_DATA")
    return Path(folder).expanduser() if folder else cache_directory() / "data"


def found(path: str, home: str) -> Path:
    """Return a path that a user typed: below `home` if it is there, else below the current folder."""
    here = Path(path).expanduser()
    there = Path(home, here)
    return there if there.exists() else here


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let only one process at a time create path; the operating system releases the lock on a crash.

    After a second of waiting it warns, and names the file and the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    process_lock = file_lock(path.with_suffix(".lock"))
    try:
        process_lock.acquire(timeout=_SECONDS_IN_SILENCE)
    except Timeout:
        log.warning(
            "waiting for another process, which makes %s; if there is none, delete %s",
            path,
            process_lock.lock_file,
        )
        process_lock.acquire()
    try:
        yield
    finally:
        process_lock.release()


def file_lock(path: Path) -> FileLock:
    """Return a file lock; on a file system without flock the existence of the file is the lock."""
    warnings.filterwarnings("ignore", message="flock not supported")
    return FileLock(path)


_SECONDS_IN_SILENCE = 1.0


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file name to an OSError that lacks it, as that of a full disk does."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write` on a temporary file, flush it to the disk, and rename it to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with naming(path), os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # otherwise a power failure may undo the rename
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text atomically: path holds either the old text or the new."""
    # A file name in the text may have bytes that are not UTF-8.
    replace(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def as_json(content: Any, indent: int | None = None) -> str:
    """Return standard JSON: numbers that are NaN or infinite become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
