"""A person's own examples: labelled ones to learn from, and others to be labelled."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.tasks.arrays.columns import Column
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.rows import text_of
from metarun.tasks.arrays.scaling import scaled_targets
from metarun.tasks.images.decoding import LeftOutError
from metarun.tasks.images.listing import (
    Listing,
    files_by_class,
    images_below,
    listed,
    resolved_below,
)
from metarun.tasks.reading import ImageReading, Reading, RowReading

_ARRAYS = (".npz", ".npy", ".pt")
_IMAGES, _LABELS = ("x", "X", "images", "data"), ("y", "label", "labels")


@dataclass
class Notes:
    """What happened to files while they were read.

    Attributes:
        left_out: why, by name.
        told: what was done to images, and to how many.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    told: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Labelled:
    """Examples to learn from.

    Attributes:
        x: inputs [n, *shape], as they are kept: uint8 or numbers.
        y: labels as texts; or targets, [n, d].
        names: of the files or rows.
        notes: of their reading.
    """

    x: Tensor
    y: list[str] | Tensor
    names: list[str]
    notes: Notes


class Unlabelled:
    """Examples to be labelled, read part by part.

    Args:
        names: of the files or rows.
        said: the known labels, from folders or columns; None where there is none.
        source: the files of images, or the inputs [n, *shape].

    Attributes:
        notes: of their reading, so far.
    """

    def __init__(self, names: Sequence[str], said: Sequence[str | None], source: _Images | Tensor) -> None:
        self.names, self.said, self._source = list(names), list(said), source
        self.notes = source.notes if isinstance(source, _Images) else Notes()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.names)

    def parts(self, size: int, *, mixed: bool = False) -> Iterator[tuple[list[int], Tensor]]:
        """Yield inputs [n, *shape], of n ≤ size examples that could be read, with their places.

        Args:
            size: examples of a part, at most.
            mixed: whether a part has examples from all over, where its predictions depend on one another.
        """
        count = max(1, -(-len(self) // size))
        every = np.arange(len(self))
        for places in [every[i::count] for i in range(count)] if mixed else np.array_split(every, count):
            kept, x = self.read(places.tolist())
            if kept:
                yield kept, x

    def again(self, places: list[int]) -> tuple[list[int], Tensor]:
        """Return inputs once more, without noting what is done to them."""
        if isinstance(self._source, _Images):
            return _Images(self._source.root, self._source.paths, self._source.reading).read(places)
        return self.read(places)

    def read(self, places: list[int]) -> tuple[list[int], Tensor]:
        """Return those of these places that can be read, and their inputs."""
        return (
            self._source.read(places) if isinstance(self._source, _Images) else (places, self._source[places])
        )


class _Images:
    """Files of images below a folder, decoded by all cores."""

    def __init__(self, root: Path, paths: Sequence[str], reading: ImageReading) -> None:
        self.root, self.paths, self.reading, self.notes = root, list(paths), reading, Notes()

    def read(self, places: Sequence[int]) -> tuple[list[int], Tensor]:
        """Return the places that could be read, and their images, uint8 [n, *shape]."""
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(self._one, places))
        kept, images = [], []
        for place, (image, said) in zip(places, found, strict=True):
            if image is None:
                self.notes.left_out[self.paths[place]] = said
                continue
            kept.append(place)
            images.append(image)
            if said:
                self.notes.told[said] += 1
        empty = torch.zeros(0, *self.reading.shape, dtype=torch.uint8)
        return kept, torch.stack(images) if images else empty

    def _one(self, place: int) -> tuple[Tensor | None, str]:
        """Return an image, and what was done to it; or None, and why."""
        try:
            content = (self.root / self.paths[place]).read_bytes()
            return self.reading.read(content), self.reading.told(content)
        except LeftOutError as reason:
            return None, str(reason)
        except OSError as error:
            return None, f"unreadable ({error.strerror or error})"


@contextmanager
def _of_flag(flag: str) -> Iterator[None]:
    """Name the flag in errors, in place of the key that such a file has in a training."""
    try:
        yield
    except ConfigError as error:
        problem = re.sub(r"@source\.(file|root)=", f"{flag} ", error.problem)
        raise ConfigError(problem if problem.startswith(flag) else f"{flag}: {problem}") from error


def read_support(path: Path, reading: Reading, dtype: torch.dtype, *, values: bool = False) -> Labelled:
    """Return labelled examples: class folders, or a csv of paths; or a file of rows.

    Args:
        path: see above.
        reading: how examples become inputs.
        dtype: of rows.
        values: whether targets are numbers.

    Raises:
        ConfigError: there is nothing that can be read.
    """
    _check_there(path, "--support")
    with _of_flag("--support"):
        if isinstance(reading, RowReading):
            return _support_rows(path, reading, dtype, values=values)
        if path.suffix.lower() in _ARRAYS:
            x, said = _image_arrays(path, reading)
            if said is None:
                raise ConfigError(f"--support {path}: it has no array {_LABELS[0]}, the labels")
            return _known(path, x, said)
        listing = _class_folders(path) if path.is_dir() else listed(path)
    images = _Images(listing.root, listing.paths, reading)
    kept, x = images.read(range(len(listing)))
    if not kept:
        raise ConfigError(f"--support {path}: none of its {len(listing)} images can be read")
    labels = [listing.names[listing.labels[place]] for place in kept]
    folders = [entry.name for entry in path.iterdir() if entry.is_dir()] if path.is_dir() else []
    for name in sorted({*listing.names, *folders} - set(labels)):
        images.notes.left_out[name] = "a class without an image that can be read"
    return Labelled(x, labels, [listing.paths[place] for place in kept], images.notes)


def _class_folders(root: Path) -> Listing:
    """Return the images of a folder of classes, whatever these are called."""
    classes = files_by_class(root, "")
    if not classes:
        raise ConfigError(
            f"--support {root}: expected a folder of images for each class, or a csv with the columns "
            f"path,label"
        )
    names = sorted(classes, key=os.fsencode)
    paths = [path for name in names for path in sorted(classes[name], key=os.fsencode)]
    labels = [place for place, name in enumerate(names) for _ in classes[name]]
    return Listing(root, paths, labels, names, None, [])


def _support_rows(path: Path, reading: RowReading, dtype: torch.dtype, *, values: bool) -> Labelled:
    columns = read_columns(path)
    target = _target(columns, reading)
    if target is None:
        raise ConfigError(f"--support {path}: it has no column {reading.target}, the labels")
    x, column = reading.read(path, columns, dtype), columns[target]
    if values:
        if column.dtype == object:
            raise ConfigError(f"--support {path}: {target} holds texts: expected numbers")
        numbers = column.reshape(len(column), -1).astype(np.float64)
        known = np.flatnonzero(np.isfinite(numbers).all(1))
        y = scaled_targets(numbers[known], reading.of_targets, dtype)
        names = _rows(len(x))
        return Labelled(x[known], y, [names[place] for place in known], Notes())
    return _known(path, x, _texts(column))


def _known(path: Path, x: Tensor, labels: Sequence[str | None]) -> Labelled:
    """Return the rows of a file that have a label."""
    names = _rows(len(x))
    known = {place: label for place, label in enumerate(labels) if label is not None}
    if not known:
        raise ConfigError(f"--support {path}: none of its {len(x)} rows has a label")
    kept = list(known)
    return Labelled(x[kept], list(known.values()), [names[place] for place in kept], Notes())


def _rows(count: int) -> list[str]:
    """Return the names of rows, counted from 1."""
    return [f"row {number}" for number in range(1, count + 1)]


def _texts(column: Column) -> list[str | None]:
    """Return the labels of a column, None where it has none."""
    return [text_of(value) for value in column.reshape(len(column), -1)[:, 0].tolist()]


def _target(columns: Mapping[str, Column], reading: RowReading) -> str | None:
    return reading.target if reading.target in columns else None


def read_query(path: Path, reading: Reading, dtype: torch.dtype) -> Unlabelled:
    """Return examples to be labelled: a folder of images, an image, a csv of paths, or a file of rows.

    Folders' names, and labels in a csv or a file, are kept as the examples' known labels.

    Raises:
        ConfigError: there is nothing that can be read.
    """
    _check_there(path, "--query")
    with _of_flag("--query"):
        return _query(path, reading, dtype)


def _query(path: Path, reading: Reading, dtype: torch.dtype) -> Unlabelled:
    if isinstance(reading, RowReading):
        columns = read_columns(path)
        x = reading.read(path, columns, dtype)
        target = _target(columns, reading)
        said: list[str | None] = [None] * len(x)
        if target is not None and reading.of_targets is None:
            said = _texts(columns[target])
        return Unlabelled(_rows(len(x)), said, x)
    if path.suffix.lower() in _ARRAYS and path.is_file():
        x, labels = _image_arrays(path, reading)
        return Unlabelled(_rows(len(x)), [None] * len(x) if labels is None else labels, x)
    if path.is_dir():
        paths = sorted((found for found, _ in images_below(path)), key=os.fsencode)
        said = [found.partition("/")[0] if "/" in found else None for found in paths]
        root = path
    elif path.suffix.lower() == ".csv":
        root = path.parent
        paths, said = _paths_of(path)
    else:
        root, paths, said = path.parent, [path.name], [None]
    if not paths:
        raise ConfigError(f"--query {path}: it holds no images")
    return Unlabelled(paths, said, _Images(root, paths, reading))


def _image_arrays(path: Path, reading: ImageReading) -> tuple[Tensor, list[str | None] | None]:
    """Return the images of a file of arrays, and their labels, if it has some."""
    columns = read_columns(path)
    images = next((columns[name] for name in _IMAGES if name in columns), None)
    if images is None:
        raise ConfigError(f"{path} has {', '.join(columns)}: expected an array {_IMAGES[0]}, the images")
    labels = next((columns[name] for name in _LABELS if name in columns), None)
    x = reading.arrays(images)
    return x, None if labels is None else _texts(labels)


def _paths_of(file: Path) -> tuple[list[str], list[str | None]]:
    """Return the paths of a csv in its order, and the labels of those that have one.

    Raises:
        ConfigError: it has no column path, or a path leads out of its folder.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines)
            heads = [name.strip().lower() for name in reader.fieldnames or []]
            if "path" not in heads:
                raise ConfigError(f"{file} has the columns {', '.join(heads)}: expected path, or path,label")
            reader.fieldnames = heads
            rows = [(row["path"] or "", row.get("label") or None) for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{file} is no csv file in UTF-8 ({error})") from error
    for number, (path, _) in enumerate(rows, 2):
        resolved_below(file.parent.resolve(), path.strip(), f"{file}, line {number}")
    return [path.strip() for path, _ in rows], [label.strip() if label else None for _, label in rows]


def _check_there(path: Path, flag: str) -> None:
    if not path.exists():
        raise ConfigError(f"{flag} {path}: there is no such folder or file")
