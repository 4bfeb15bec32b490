"""What a column of a file is, and what in a text stands for nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from metarun.errors import ConfigError

Column = NDArray[Any]
"""Numbers [n, …], or texts [n] (dtype object); missing numbers are NaN, missing texts None."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
"""What stands for a missing value in a text file, in small letters."""


def check_fits(path: Path, needed: int) -> None:
    """Raise ConfigError for a file that would fill the memory: a few bytes may stand for many."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory / 2:
        raise ConfigError(
            f"{path} would take {needed / 2**30:,.0f} GiB of memory, and there are {memory / 2**30:,.0f} GiB"
        )
