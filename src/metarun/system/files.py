"""Where metarun keeps its files, and how it writes them atomically."""

from __future__ import annotations

import errno
import hashlib
import io
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

import torch
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


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values with a checksum, atomically: path holds the old content or the new.

    The file is a zip archive in torch's format that torch.load reads; its comment is the checksum.
    """
    # Through memory, so that a full disk raises an OSError and not one of torch's errors.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    sealed = _seal(buffer.getvalue())
    replace(path, lambda file: file.write(sealed))


class DamagedFileError(Exception):
    """A file that write_tensors did not write, or that has changed since."""


class UnsealedFileError(DamagedFileError):
    """A file without a checksum."""


def read_tensors(path: Path, *, sealed: bool = True) -> dict[str, Any]:
    """Read a file of write_tensors, with its tensors on the CPU; no code in the file is executed.

    Args:
        path: the file.
        sealed: whether the file must have a checksum, as all files that metarun writes now.

    Raises:
        UnsealedFileError: the checksum is missing.
        DamagedFileError: the file is damaged, or has another content.
        OSError: the file is missing, or may not be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EIO):
            raise
        raise DamagedFileError(f"{path} cannot be read ({error.strerror})") from error
    if sealed:
        data = _unseal(path, data)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # on damaged bytes torch's unpickler may raise any error
        problem = (
            "holds objects that are not loaded, since they could run code"
            if sealed
            else "is damaged, or not a file of metarun"
        )
        raise DamagedFileError(f"{path} {problem}") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} does not hold a dictionary")
    return content


_SEAL = b"sha256:"
_SEAL_LENGTH = len(_SEAL) + 2 * hashlib.sha256().digest_size


def _digest(data: bytes) -> bytes:
    return _SEAL + hashlib.sha256(data).hexdigest().encode()


def _seal(archive: bytes) -> bytes:
    """Return a zip archive without a comment with its checksum as the comment.

    An archive ends with the length of its comment, two bytes, and the comment (PKWARE's APPNOTE 4.3.16).
    """
    return archive[:-2] + _SEAL_LENGTH.to_bytes(2, "little") + _digest(archive)


def _unseal(path: Path, data: bytes) -> bytes:
    body, seal = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if not seal.startswith(_SEAL):
        raise UnsealedFileError(f"{path} is damaged, or not a file of metarun: it has no checksum")
    archive = body[:-2] + bytes(2)
    if body[-2:] != _SEAL_LENGTH.to_bytes(2, "little") or _digest(archive) != seal:
        raise DamagedFileError(f"{path} is damaged: its checksum is wrong")
    return archive


def as_json(content: Any, indent: int | None = None) -> str:
    """Return standard JSON: numbers that are NaN or infinite become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
