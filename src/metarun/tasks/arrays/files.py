"""Files of arrays and tables, read without running any code in them."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarun.errors import ConfigError, MetarunError, in_one_line
from metarun.tasks.arrays.columns import MISSING, Column, check_fits
from metarun.tasks.arrays.series import read_series


def read_columns(path: Path) -> Mapping[str, Column]:
    """Return the arrays or columns of a file by name; all have the same length.

    `.npz`: its arrays; `.npy`: one array, called x; `.pt`: a dictionary of tensors, or a pair (x, y); `.csv`
    and `.tsv`: columns with a first line of names; `.parquet`: columns; `.ts`: time series, as the archives
    of UCR and UEA have them.

    Raises:
        ConfigError: the file does not exist, has an unknown ending, is damaged, or does not fit into memory.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"@source.file={path}: expected a file that ends in {', '.join(_READERS)}")
    if not path.is_file():
        raise ConfigError(f"@source.file={path}: there is no such file", "@source.file=FILE")
    status = path.stat()
    return _read_once(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=2)
def _read_once(path: Path, size: int, time: int) -> Mapping[str, Column]:  # noqa: ARG001
    """Return a file's columns; cached, because one command reads its data several times."""
    try:
        columns = _READERS[path.suffix.lower()](path)
    except (MetarunError, MemoryError, PermissionError):
        raise
    except Exception as error:  # numpy, torch and pyarrow raise many types of errors
        raise ConfigError(
            f"{path} is damaged, or no {path.suffix} file ({in_one_line(error)[:150]})"
        ) from error
    if not columns:
        raise ConfigError(f"{path} holds no arrays")
    lengths = {name: len(column) if column.ndim else 0 for name, column in columns.items()}
    rows = max(lengths.values())
    for name, length in lengths.items():
        if length != rows:
            longest = next(other for other in lengths if lengths[other] == rows)
            raise ConfigError(f"{path}: {name} has {length} rows, and {longest} has {rows}")
    if rows == 0:
        raise ConfigError(f"{path} has no rows")
    return columns


def _npz(path: Path) -> dict[str, Column]:
    with zipfile.ZipFile(path) as archive:
        check_fits(path, sum(entry.file_size for entry in archive.infolist()))
    with np.load(path, allow_pickle=False) as arrays:
        return {name: _plain(path, name, arrays[name]) for name in arrays.files}


def _npy(path: Path) -> dict[str, Column]:
    return {"x": _plain(path, "x", np.load(path, mmap_mode="r", allow_pickle=False))}


def _pt(path: Path) -> dict[str, Column]:
    is_zip = zipfile.is_zipfile(path)  # older torch files are no zip files, and cannot be memory-mapped
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    if isinstance(content, torch.Tensor):
        content = {"x": content}
    if isinstance(content, list | tuple) and len(content) == 2:
        content = dict(zip(("x", "y"), content, strict=True))
    if not isinstance(content, dict):
        raise ConfigError(
            f"{path} holds a {type(content).__name__}: expected a dictionary of tensors, or a pair"
        )
    columns = {}
    for name, value in content.items():
        array = _from_torch(value) if isinstance(value, torch.Tensor) else np.asarray(value)
        columns[str(name)] = _plain(path, str(name), array)
    return columns


def _from_torch(value: torch.Tensor) -> Column:
    plain = value.detach().to_dense() if value.is_sparse else value.detach()
    # Numpy has no bfloat16.
    return np.asarray((plain.float() if plain.dtype == torch.bfloat16 else plain).numpy())


def _csv(path: Path) -> dict[str, Column]:
    check_fits(path, 20 * path.stat().st_size)  # Python strings take about 20 times the bytes of the file
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
        names = [name.strip() for name in next(csv.reader([first], delimiter=separator), [])]
        if len(names) < 2 or len(set(names)) < len(names) or not all(names):
            raise ConfigError(f"{path}: expected a first line with the columns' names, all different")
        rows = []
        for line, row in enumerate(csv.reader(file, delimiter=separator), 2):
            if not row:
                continue
            if len(row) != len(names):
                raise ConfigError(
                    f"{path}, line {line}: {len(row)} entries, and there are {len(names)} columns"
                )
            rows.append(row)
    return {name: _parsed([row[i] for row in rows]) for i, name in enumerate(names)}


def _parsed(texts: Sequence[str]) -> Column:
    """Return a column as numbers if all its non-missing texts are numbers; else as texts."""
    stripped = [text.strip() for text in texts]
    try:
        return np.array([np.nan if text.lower() in MISSING else float(text) for text in stripped])
    except ValueError:
        return np.array([None if text.lower() in MISSING else text for text in stripped], dtype=object)


def _parquet(path: Path) -> dict[str, Column]:
    try:
        from pyarrow import parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MetarunError(
            f"{path}: parquet files need pyarrow: pip install 'metarun[parquet]'", "a csv or npz file"
        ) from error
    table = parquet.read_table(path)
    check_fits(path, table.nbytes)
    columns = {}
    for name in table.column_names:
        values = table[name].to_pylist()
        if all(value is None or isinstance(value, int | float) for value in values):
            columns[name] = np.array([np.nan if value is None else float(value) for value in values])
        elif all(value is None or isinstance(value, str) for value in values):
            columns[name] = np.array(values, dtype=object)
        else:
            columns[name] = _plain(path, name, np.array(values))
    return columns


_READERS: dict[str, Callable[[Path], dict[str, Column]]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".pt": _pt,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".ts": read_series,
}


def _plain(path: Path, name: str, array: NDArray[Any]) -> Column:
    """Return an array as a column of numbers or of texts.

    Raises:
        ConfigError: the array holds something else.
    """
    if array.dtype.kind in "biuf":
        return array
    if array.dtype.kind == "U":
        texts = np.empty(array.shape, dtype=object)
        texts[...] = [None if text.lower() in MISSING else text for text in array.ravel().tolist()]
        return texts
    raise ConfigError(f"{path}: {name} is {array.dtype} {list(array.shape)}: expected numbers or texts")
