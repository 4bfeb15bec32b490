"""Files of tensors and plain values, with a checksum; reading one runs no code."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metarun.system.files import replace


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
