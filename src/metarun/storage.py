"""Where metarun keeps files of its own, and how it writes them so that a kill never leaves half of one."""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from filelock import FileLock
from platformdirs import user_cache_path


def cache_directory() -> Path:
    """Return the folder of everything that can be made again: METARUN_CACHE, else the user's cache."""
    return Path(os.environ.get("METARUN_CACHE") or user_cache_path("metarun")).expanduser()


def data_directory() -> Path:
    """Return the folder datasets are looked for and downloaded to: METARUN_DATA, else a cache folder."""
    given = os.environ.get("METARUN_DATA")
    return Path(given).expanduser() if given else cache_directory() / "data"


def lock(path: Path) -> FileLock:
    """Return a lock on the making of path, held between processes and let go by the system on a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let write fill a temporary file, flush it to the disk, and rename it to path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
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
    replace(path, lambda file: file.write(text.encode()))


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values so that path holds either the old content or the new."""
    # Through memory, so that a full disk is an OSError and not one of torch's.
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    replace(path, lambda file: file.write(buffer.getbuffer()))


class DamagedFileError(Exception):
    """A file that write_atomically did not write, or that was changed since."""


def read_tensors(path: Path) -> dict[str, Any]:
    """Read what write_atomically wrote, to the CPU; nothing in the file is executed.

    Raises:
        DamagedFileError: it is something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, LookupError, OSError, pickle.UnpicklingError) as error:
        raise DamagedFileError(f"{path} is damaged, or holds something else") from error
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path} holds something else")
    return content


def as_json(content: Any, indent: int | None = None) -> str:
    """Return JSON that every reader takes: numbers that are not finite become null."""
    return json.dumps(_finite(content), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content
