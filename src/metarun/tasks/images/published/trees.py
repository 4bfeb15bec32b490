"""One interface for folders and archives: names and contents of files; nothing is unpacked to the disk."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Protocol

from metarun.errors import MetarunError

_MOST_BYTES = 2**28  # of one image
_MOST_RATIO = 1000  # of unpacked to packed size; a larger ratio suggests a zip bomb


class Tree(Protocol):
    """Files by their paths, with / between folders.

    Attributes:
        path: the folder or the archive.
        in_order: whether files are read fastest one after another, in the order of `names`.
    """

    path: Path
    in_order: bool

    def names(self) -> Mapping[str, tuple[int, int]]:
        """Return the files, and the size and time of each."""

    def read(self, name: str) -> bytes:
        """Return a file's content."""

    def open(self, name: str) -> BinaryIO:
        """Open a large file."""


class FolderTree:
    """The files below a folder."""

    in_order = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self._names: dict[str, tuple[int, int]] = {}

    def names(self) -> Mapping[str, tuple[int, int]]:
        """Return the files, without hidden files and links to folders."""
        if not self._names:
            self._names = dict(sorted(self._below("")))
        return self._names

    def _below(self, folder: str) -> Iterator[tuple[str, tuple[int, int]]]:
        with os.scandir(self.path / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._below(name)
                elif entry.is_file():
                    status = entry.stat()
                    yield name, (status.st_size, status.st_mtime_ns)

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        return (self.path / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        """Open a large file."""
        return (self.path / name).open("rb")


class ZipTree:
    """The files in a zip archive."""

    in_order = False

    def __init__(self, path: Path) -> None:
        self.path = path
        with _readable(path):
            self._archive = zipfile.ZipFile(path)
        self._lock = Lock()
        self._names = {
            entry.filename: (entry.file_size, entry.CRC)
            for entry in self._archive.infolist()
            if not entry.is_dir() and _is_below(entry.filename)
        }

    def names(self) -> Mapping[str, tuple[int, int]]:
        """Return the files, with checksums instead of times; paths out of the archive are left out."""
        return self._names

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        self._check(name, _MOST_BYTES)
        with self._lock, _readable(self.path):
            return self._archive.read(name)

    def open(self, name: str) -> BinaryIO:
        """Open a large file."""
        self._check(name, 2**40)
        with _readable(self.path):
            return io.BufferedReader(self._archive.open(name))  # type: ignore[type-var]

    def _check(self, name: str, most: int) -> None:
        entry = self._archive.getinfo(name)
        if entry.file_size > min(most, max(_MOST_RATIO * entry.compress_size, 2**20)):
            raise MetarunError(
                f"{self.path}: {name} would grow from {entry.compress_size:,} to {entry.file_size:,} bytes"
            )


class TarTree:
    """The files in a tar archive, compressed or not, which is read from its beginning to its end."""

    in_order = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        with _readable(path), tarfile.open(path) as archive:
            # Links of all kinds are left out.
            self._members = {m.name: m for m in archive if m.isfile() and _is_below(m.name)}
        self._open: tarfile.TarFile | None = None

    def names(self) -> Mapping[str, tuple[int, int]]:
        """Return the files in the archive's order; paths out of the archive are left out."""
        return {name: (member.size, int(member.mtime)) for name, member in self._members.items()}

    def read(self, name: str) -> bytes:
        """Return a file's content."""
        member = self._members[name]
        if member.size > _MOST_BYTES:
            raise MetarunError(f"{self.path}: {name} has {member.size:,} bytes, and an image has fewer")
        with self._lock, _readable(self.path):
            file = self._archive().extractfile(member)
            assert file is not None
            return file.read()

    def open(self, name: str) -> BinaryIO:
        """Open a large file."""
        with _readable(self.path):
            file = self._archive().extractfile(self._members[name])
            assert file is not None
            return io.BufferedReader(file)  # type: ignore[type-var]

    def _archive(self) -> tarfile.TarFile:
        if self._open is None:
            self._open = tarfile.open(self.path)  # noqa: SIM115  (stays open while the tree is used)
        return self._open


def tree_of(path: Path) -> Tree:
    """Return the tree of a folder or an archive.

    Raises:
        MetarunError: the path is neither a folder nor an archive, or is damaged.
    """
    if path.is_dir():
        return FolderTree(path)
    return ZipTree(path) if path.suffix == ".zip" else TarTree(path)


def is_archive(path: Path) -> bool:
    """Return whether a file's name is that of an archive."""
    return path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"))


def _is_below(name: str) -> bool:
    parts = name.split("/")
    return not name.startswith(("/", "\\")) and ".." not in parts and ":" not in parts[0]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn errors about an archive's content into a MetarunError that names the archive."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        with path.open("rb") as file:
            start = file.read(64)
        hint = "; it is a web page: the server gave no file" if start.lstrip()[:1] == b"<" else ""
        raise MetarunError(f"{path} is damaged, or no archive ({error}){hint}: delete it") from error
