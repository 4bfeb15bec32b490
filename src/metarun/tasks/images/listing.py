"""List a user's images: from class folders, or from a csv of paths and labels."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from pathlib import Path

from metarun.errors import ConfigError
from metarun.tasks.division import NAMES
from metarun.tasks.types import SPLITS, Split

_AT_MOST = 50_000_000  # bytes of a csv file, which is read as a whole


@dataclass(frozen=True)
class Listing:
    """Images, sorted by class and then by name.

    Attributes:
        root: the folder that paths are relative to.
        paths: the paths of the images.
        labels: the class of each image.
        names: names of the classes.
        splits: the split of each class; None: the classes are not divided yet.
        stamps: size and modification time of each file, to detect changed files.
        more: further labels of each image, one list for each further label set; empty: one label set.
    """

    root: Path
    paths: list[str]
    labels: list[int]
    names: list[str]
    splits: list[Split] | None
    stamps: list[tuple[int, int]] = field(repr=False)
    in_order: bool = False
    more: list[list[str]] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a digest of the names, sizes and times of all files."""
        digest = hashlib.sha256()
        for path, stamp in zip(self.paths, self.stamps, strict=True):
            digest.update(os.fsencode(path) + b"\0%d %d\n" % stamp)
        return digest.hexdigest()

    def read(self, index: int) -> bytes:
        """Return the content of an image's file."""
        return (self.root / self.paths[index]).read_bytes()


@dataclass(frozen=True)
class Columns:
    """The names of a csv file's columns, in lower case.

    Attributes:
        path: the column of file paths.
        labels: the columns of label sets; the classes of the first set are divided between the splits.
        folder: the folder of the files, relative to the csv file's folder.
    """

    path: str = "path"
    labels: tuple[str, ...] = ("label",)
    folder: str = ""


def listed(root: Path, levels: int = 1, columns: Columns | None = None) -> Listing:
    """Return the images below a folder, or those that a csv file lists.

    A folder holds a folder for each class, or folders train, val (or valid, validation) and test, which then
    hold the folders of the classes.

    Args:
        root: the folder, or the csv file; its paths are relative to the csv file's folder.
        levels: number of nested folders whose names form the name of a class.
        columns: names of the csv file's columns; None: path, label and split.

    Raises:
        ConfigError: the folder or file does not exist or has no classes, or two splits share a class.
    """
    if root.is_dir():
        return _of_folder(root, levels)
    if not root.is_file():
        raise ConfigError(
            f"@source.root={root}: there is no such folder or file",
            "@source.root=FOLDER, a folder of classes",
        )
    return _of_csv(root, columns or Columns())


def _of_folder(root: Path, levels: int) -> Listing:
    below = {name.lower(): name for name in _folders(root)}
    splits = {NAMES[name]: folder for name, folder in below.items() if name in NAMES}
    if "train" in splits and "test" in splits:
        found: dict[Split | None, _Files] = {
            split: files_by_class(root, splits[split], levels) for split in SPLITS if split in splits
        }
        return _listing(root, found, f"{root}: its folders {', '.join(sorted(splits.values()))}")
    return _listing(root, {None: files_by_class(root, "", levels)}, str(root))


def _folders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


_Files = dict[str, dict[str, tuple[int, int]]]
"""Class → path → size and modification time."""


def files_by_class(root: Path, start: str, levels: int = 1) -> _Files:
    """Return the images below a folder by class; a class is named by the first `levels` folders of a path."""
    classes: _Files = {}
    for path, stamp in images_below(root, start):
        inside = Path(path).relative_to(start) if start else Path(path)
        if len(inside.parts) > levels:
            classes.setdefault("/".join(inside.parts[:levels]), {})[path] = stamp
    return classes


def images_below(
    root: Path, folder: str = "", above: AbstractSet[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield the path relative to root, and the size and time, of every image below a folder.

    Links are followed, except links to a folder above, which would lead to an endless recursion.
    """
    status = (root / folder).stat()
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    with os.scandir(root / folder) as scan:
        entries = sorted(scan, key=lambda entry: entry.name)
    for entry in entries:
        path = f"{folder}/{entry.name}" if folder else entry.name
        try:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from images_below(root, path, above | {here})
            elif entry.is_file() and _looks_like_an_image(entry.name):
                status = entry.stat()
                yield path, (status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise ConfigError(f"{root / path} cannot be read ({error.strerror})") from error


def _looks_like_an_image(name: str) -> bool:
    """Return whether Pillow knows a format with this file ending."""
    from PIL import Image

    return os.path.splitext(name)[1].lower() in Image.registered_extensions()  # noqa: PTH122  (for each file)


def _of_csv(file: Path, columns: Columns) -> Listing:
    rows = list(_rows(file, columns))
    has_splits = any(split for _, _, split in rows)
    files: dict[Split | None, _Files] = {split: {} for split in SPLITS} if has_splits else {None: {}}
    folder = (file.parent / columns.folder).resolve()
    further: dict[str, tuple[str, ...]] = {}
    known: dict[Path, tuple[int, str, tuple[str, ...], str]] = {}
    for line, (path, (label, *more), split) in enumerate(rows, 2):
        where = f"{file}, line {line}"
        target = resolved_below(folder, path, where)
        if split.lower() not in NAMES if has_splits else False:
            raise ConfigError(
                f"{where}: the split {split or 'is empty'}: expected train, val or test in every line"
            )
        try:
            status = target.stat()
        except OSError as error:
            raise ConfigError(f"{where}: {path} cannot be read ({error.strerror})") from error
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{where}: {path} is no file")
        said = (label, tuple(more), split.lower())
        if known.setdefault(target, (line, *said))[1:] != said:
            raise ConfigError(
                f"{where}: {path} is in line {known[target][0]} too, with other labels or another split"
            )
        of_split = files[NAMES[split.lower()] if has_splits else None]
        of_split.setdefault(label, {})[path] = (status.st_size, status.st_mtime_ns)
        further[path] = tuple(more)
    for place, column in enumerate(columns.labels[1:]):
        if all(more[place].lower() in ("", "nan") for more in further.values()):
            raise ConfigError(f"{file}: the column {column} is empty")
    found = _listing(folder, files, f"{file}: its splits")
    sets = range(len(columns.labels) - 1)
    return replace(found, more=[[further[path][i] for path in found.paths] for i in sets])


def resolved_below(folder: Path, path: str, where: str) -> Path:
    """Return the resolved path of a file that a csv lists.

    Raises:
        ConfigError: the path is invalid, or leads out of the csv's folder.
    """
    try:
        target = (folder / path).resolve()
    except (ValueError, RuntimeError, OSError) as error:  # a NUL byte, a loop of links
        raise ConfigError(f"{where}: {path[:100]!r} is no path ({error})") from error
    if not target.is_relative_to(folder):
        raise ConfigError(f"{where}: {path} is outside of {folder}", f"paths below {folder}")
    return target


def _rows(file: Path, columns: Columns) -> Iterator[tuple[str, list[str], str]]:
    """Yield path, labels and split of each line of a csv file; only the first label is required."""
    try:
        if file.stat().st_size > _AT_MOST:
            raise ConfigError(f"{file} has more than {_AT_MOST:,} bytes: is it a csv file?")
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not a text in UTF-8 (byte {error.start})") from error
    wanted = [columns.path, *columns.labels]
    if len(set(wanted)) < len(wanted) or "split" in wanted:
        raise ConfigError(
            f"@source.labels={list(columns.labels)}: expected different columns, without {columns.path} and "
            f"split"
        )
    expected = f"a first line with the columns {','.join(wanted)} or {','.join([*wanted, 'split'])}"
    try:
        dialect = csv.Sniffer().sniff(text.partition("\n")[0], ",;\t")
    except csv.Error:
        raise ConfigError(f"{file} has no columns separated by commas: expected {expected}") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    names = [" ".join(name.lower().split()) for name in reader.fieldnames or []]
    if len(set(names)) < len(names):
        raise ConfigError(f"{file} has two columns of one name: {', '.join(names)}")
    if not set(wanted) <= set(names):
        raise ConfigError(f"{file} has the columns {', '.join(names)}: expected {expected}")
    reader.fieldnames = names
    try:
        for line, row in enumerate(reader, 2):
            if None in row:  # csv stores surplus entries of a line under the key None
                raise ConfigError(f"{file}, line {line}: it has more entries than there are columns")
            path, *labels, split = ((row.get(name) or "").strip() for name in [*wanted, "split"])
            if not path or not labels[0]:
                raise ConfigError(f"{file}, line {line}: expected a path and a label")
            yield path, labels, split
    except csv.Error as error:
        raise ConfigError(f"{file}, line {reader.line_num}: {error}") from error


def _listing(root: Path, found: Mapping[Split | None, _Files], where: str) -> Listing:
    """Return the listing of the files of each split; the split None holds undivided classes."""
    of_class = [(split, name) for split, classes in found.items() for name in classes]
    if not of_class:
        raise ConfigError(
            f"{root} holds no folder with images",
            "@source.root=FOLDER, with a folder of images for each class",
        )
    twice = _repeated(name for _, name in of_class)
    if twice:
        raise ConfigError(
            f"{where} share the class {twice}, and a learner is tested on classes that it has not seen",
            "@source.root=FOLDER with one folder for each class, to be divided by class",
        )
    of_class.sort(key=lambda pair: os.fsencode(pair[1]))
    files = [found[split][name] for split, name in of_class]
    splits = [split for split, _ in of_class if split is not None]
    return Listing(
        root,
        [path for classes in files for path in sorted(classes, key=os.fsencode)],
        [label for label, classes in enumerate(files) for _ in classes],
        [name for _, name in of_class],
        splits or None,
        [classes[path] for classes in files for path in sorted(classes, key=os.fsencode)],
    )


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
