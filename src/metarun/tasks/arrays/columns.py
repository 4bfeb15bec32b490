"""Columns of a user's file, and the texts in them that stand for a missing value."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from metarun.errors import ConfigError

Column = NDArray[Any]
"""Numbers [n, …], or texts [n] (dtype object); missing numbers are NaN, missing texts None."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""The texts that stand for a missing value, in lower case."""


def check_fits(path: Path, needed: int) -> None:
    """Raise ConfigError for a file whose content would take more than half of the memory.

    A small compressed file may expand to many bytes.

    Args:
        path: the file.
        needed: bytes that the content takes in memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise ConfigError(
            f"{path} would take {needed / 2**30:,.0f} GiB of memory, and there are {memory / 2**30:,.0f} GiB"
        )
