"""Where metarun keeps files of its own, and how it writes them so that a kill never leaves half of one."""

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
    """Return the folder of everything that can be made again: METARUN_CACHE, else the user's cache."""
    return Path(os.environ.get("METARUN_CACHE") or user_cache_path("metarun")).expanduser()


def data_directory() -> Path:
    """Return the folder datasets are looked for and downloaded to: METARUN_DATA, else a cache folder."""
    given = os.environ.get("METARUN_DATA")
    return Path(given).expanduser() if given else cache_directory() / "data"


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold a lock on the making of path, between processes; the system lets go of it on a crash.

    Where it has to wait it says so, and for what.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    held = file_lock(path.with_suffix(".lock"))
    try:
        held.acquire(timeout=_SECONDS_IN_SILENCE)
    except Timeout:
        log.warning(
            "waiting for another process, which makes %s; if there is none, delete %s", path, held.lock_file
        )
        held.acquire()
    try:
        yield
    finally:
        held.release()


def file_lock(path: Path) -> FileLock:
    """Return a lock by a file; on a file system without such locks the file itself is the lock."""
    warnings.filterwarnings("ignore", message="flock not supported")
    return FileLock(path)


_SECONDS_IN_SILENCE = 1.0


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError of writing say which file it was: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let write fill a temporary file, flush it to the disk, and rename it to path."""
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
        os.fsync(folder)  # without it the rename itself may be lost with the power
    finally:
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a text so that path holds either the old one or the new."""
    # A file name may have bytes that are no text.
    replace(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))


def write_tensors(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values, sealed, so that path holds either the old content or the new.

    The file is torch's own, a zip archive, and torch.load reads it. The seal is the archive's comment.
    """
    # Through memory, so that a full disk is an OSError and not one of torch's.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    sealed = _seal(buffer.getvalue())
    replace(path, lambda file: file.write(sealed))


class DamagedFileError(Exception):
    """A file that write_tensors did not write, or that was changed since."""


class UnsealedFileError(DamagedFileError):
    """A file without a checksum."""


def read_tensors(path: Path, *, sealed: bool = True) -> dict[str, Any]:
    """Read what write_tensors wrote, to the CPU; nothing in the file is executed.

    Args:
        path: the file.
        sealed: whether it has a checksum, as all have that metarun writes now.

    Raises:
        UnsealedFileError: it has no checksum, and should.
        DamagedFileError: it is something else.
        OSError: it is not there, or may not be read.
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
    except Exception as error:  # what torch's unpickler says of damaged bytes may be of any type
        what = (
            "holds something that is not read from strangers"
            if sealed
            else "is damaged, or holds something else"
        )
        raise DamagedFileError(f"{path} {what}") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds something else")
    return content


_SEAL = b"sha256:"
_SEAL_LENGTH = len(_SEAL) + 2 * hashlib.sha256().digest_size


def _digest(data: bytes) -> bytes:
    return _SEAL + hashlib.sha256(data).hexdigest().encode()


def _seal(archive: bytes) -> bytes:
    """Add the checksum of a zip archive without a comment as its comment.

    An archive ends with the length of its comment, two bytes, and the comment (PKWARE's APPNOTE 4.3.16).
    """
    return archive[:-2] + _SEAL_LENGTH.to_bytes(2, "little") + _digest(archive)


def _unseal(path: Path, data: bytes) -> bytes:
    body, seal = data[:-_SEAL_LENGTH], data[-_SEAL_LENGTH:]
    if not seal.startswith(_SEAL):
        raise UnsealedFileError(f"{path} is damaged, or not a file of metarun: it has no checksum")
    archive = body[:-2] + bytes(2)
    if body[-2:] != _SEAL_LENGTH.to_bytes(2, "little") or _digest(archive) != seal:
        raise DamagedFileError(f"{path} is damaged: its checksum does not fit")
    return archive


def as_json(content: Any, indent: int | None = None) -> str:
    """Return JSON that every reader takes: numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
