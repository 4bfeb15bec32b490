"""Files of named arrays: numpy's npz, written atomically, read without running code or filling the memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarun.errors import MetarunError
from metarun.system.files import replace

_MOST_BYTES = 2**31


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays of numbers or texts, compressed: path holds the old content or the new."""
    replace(path, lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a file, or None if there is no such file.

    Raises:
        MetarunError: it is damaged, holds objects, or is larger than 2 GiB.
    """
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MOST_BYTES:
            raise MetarunError(f"{path} has {size:,} bytes when unpacked: expected at most {_MOST_BYTES:,}")
        with np.load(path, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except (ValueError, EOFError, zipfile.BadZipFile, OSError, NotImplementedError) as error:
        if isinstance(error, PermissionError):
            raise
        raise MetarunError(f"{path} is damaged: restore it from a copy, or delete it") from error
