"""Where metarun keeps files of its own, and how it writes them so that a kill never leaves half of one."""

from __future__ import annotations

import os
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


def write_atomically(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values so that path holds either the old content or the new."""
    replace(path, lambda file: torch.save(dict(content), file))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read what write_atomically wrote; nothing in the file is executed."""
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return content
