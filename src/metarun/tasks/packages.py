"""The folders of installed packages, whose data is read without importing them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from metarun.errors import MetarunError


def package_folder(name: str, data: str, extra: str) -> Path:
    """Return the folder of an installed package.

    Args:
        name: the package.
        data: the option of `data` that reads the package's data.
        extra: metarun's extra that installs the package.

    Raises:
        MetarunError: the package is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MetarunError(f"data={data} needs the package {name}: pip install 'metarun[{extra}]'")
    return Path(spec.origin).parent
