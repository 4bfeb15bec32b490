"""Images decoded once into a memory-mapped file, which jobs share and which may exceed the memory.

A store is a file of fixed-size records, one for each image, with a description at its end. It is written
block by block, so a process that is killed loses one block. Every block has a checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from metarun.errors import MetarunError
from metarun.system.files import cache_directory, lock, naming
from metarun.tasks.images.decoding import LeftOutError, Look, decode

log = logging.getLogger("metarun")

_MAGIC = b"metarun1"
_BLOCK = 512  # images per block, at most
_BLOCK_BYTES = 2**26
# Increased whenever the same files would give other pixels.
_VERSION = 1


class Files(Protocol):
    """Images that are still to be decoded, or resized.

    Attributes:
        in_order: whether images are read fastest in their order.
    """

    @property
    def in_order(self) -> bool:
        """Whether images are read fastest in their order."""

    def __len__(self) -> int:
        """Return the number of images."""

    def fingerprint(self) -> str:
        """Return a text that changes whenever an image changes."""

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return the content of one file, or pixels [height, width, 3]."""


@dataclass(frozen=True)
class Store:
    """Prepared images.

    Attributes:
        path: the store's file.
        images: uint8 [n, channels, size, size], memory-mapped; images that were left out are zeros.
        left_out: the reason for each image that was left out, by index.
        digest: a digest of all pixels.
    """

    path: Path
    images: Tensor
    left_out: dict[int, str]
    digest: str


class DamagedStoreError(Exception):
    """A store whose content differs from its checksums."""


def prepared(name: str, files: Files, look: Look) -> Store:
    """Return the store of these files; it is made if it is missing or the files have changed.

    Of several processes that need the same store, one makes it and the others wait.

    Args:
        name: name of the store's file in the cache, without an ending.
        files: the images.
        look: the format of stored images.

    Raises:
        MetarunError: the cache's folder cannot be written.
    """
    path = store_path(name)
    description = describe(files, look)
    if store := opened(path, description):
        return store
    try:
        with lock(path):
            if store := opened(path, description):  # made by another process in the meantime
                return store
            _make(path, files, look, description)
    except OSError as error:
        raise MetarunError(
            f"{error.filename or path} cannot be written ({error.strerror}): images are decoded into it; "
            f"METARUN_CACHE=FOLDER names another folder"
        ) from error
    store = opened(path, description)
    assert store is not None
    return store


def store_path(name: str) -> Path:
    """Return the path of the store of this name, whether or not it exists."""
    return cache_directory() / "images" / f"{name}.images"


def describe(files: Files, look: Look) -> dict[str, Any]:
    """Return the description that a store of these files must have."""
    return {
        "version": _VERSION,
        "fingerprint": files.fingerprint(),
        "images": len(files),
        "shape": list(look.shape),
        "fit": look.fit,
        "block": max(1, min(_BLOCK, _BLOCK_BYTES // _record(look.shape))),
    }


def _record(shape: Sequence[int]) -> int:
    """Return the number of bytes of one image."""
    return math.prod(shape)


def opened(path: Path, description: dict[str, Any]) -> Store | None:
    """Return the store, or None if it is missing, damaged, or has another description."""
    try:
        content = _read_description(path)
    except (OSError, DamagedStoreError):
        return None
    if any(content.get(key) != value for key, value in description.items()):
        return None
    shape = (content["images"], *content["shape"])
    # Copy on write, because torch refuses read-only memory; nothing is written.
    pixels = np.memmap(path, np.uint8, "c", len(_MAGIC), shape)
    left_out = {int(place): why for place, why in content["left_out"].items()}
    digest = hashlib.sha256(repr(content["checksums"]).encode()).hexdigest()
    return Store(path, torch.from_numpy(pixels), left_out, digest)


def check_store(path: Path) -> int:
    """Return the number of images of a store, after comparing every block with its checksum.

    Raises:
        DamagedStoreError: the file is damaged.
        OSError: the file cannot be read.
    """
    content = _read_description(path)
    with path.open("rb") as file:
        intact = _intact(file, content["checksums"], content)
    if intact < len(content["checksums"]):
        raise DamagedStoreError(f"{path} is damaged in block {intact}: delete it, and it is made again")
    return int(content["images"])


def _read_description(path: Path) -> dict[str, Any]:
    """Return the description at the end of a store: JSON, its checksum, its length and a magic number."""
    tail = 4 + 8 + len(_MAGIC)
    with path.open("rb") as file:
        begins_well = file.read(len(_MAGIC)) == _MAGIC
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - tail))
        end = file.read(tail)
        length = int.from_bytes(end[4:12], "little")
        if not begins_well or end[12:] != _MAGIC or not 0 < length <= size - tail:
            raise DamagedStoreError(f"{path} is not a store of metarun")
        file.seek(size - tail - length)
        text = file.read(length)
    if zlib.crc32(text) != int.from_bytes(end[:4], "little"):
        raise DamagedStoreError(f"{path} is damaged at its end: delete it, and it is made again")
    content = json.loads(text)
    expected = len(_MAGIC) + content["images"] * _record(content["shape"]) + length + tail
    if size != expected:
        raise DamagedStoreError(f"{path} has {size} bytes, expected {expected}")
    result: dict[str, Any] = content
    return result


class _Journal:
    """The finished blocks of a `.part` file, as one line of JSON for each block.

    Args:
        path: the journal's file.
        description: the store's description; a journal with another description is ignored.
    """

    def __init__(self, path: Path, description: dict[str, Any]) -> None:
        self.path, self.blocks = path, list[dict[str, Any]]()
        self._description = description
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            if lines and json.loads(lines[0]) == description:
                for line in lines[1:]:
                    self.blocks.append(json.loads(line))
        except (FileNotFoundError, ValueError):  # ValueError: the last line is cut off
            pass

    @property
    def checksums(self) -> list[int]:
        """The checksum of each block."""
        return [block["checksum"] for block in self.blocks]

    @property
    def left_out(self) -> dict[str, str]:
        """The reason for each image that was left out, by index."""
        return {place: why for block in self.blocks for place, why in block["left_out"].items()}

    def keep(self, count: int) -> None:
        """Keep the first `count` blocks, and drop the others."""
        del self.blocks[count:]
        self._append("w", self._description, *self.blocks)

    def add(self, pixels: bytes, left_out: dict[int, str]) -> None:
        """Record a block that has been written to the disk."""
        named = {str(place): why for place, why in left_out.items()}
        self.blocks.append({"checksum": zlib.crc32(pixels), "left_out": named})
        self._append("a", self.blocks[-1])

    def _append(self, mode: str, *entries: dict[str, Any]) -> None:
        with naming(self.path), self.path.open(mode, encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in entries)
            _to_disk(file)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _make(path: Path, files: Files, look: Look, description: dict[str, Any]) -> None:
    """Decode the files into a `.part` file, continuing an interrupted attempt; then rename it."""
    part = path.with_suffix(".part")
    journal = _Journal(path.with_suffix(".journal"), description)
    block = description["block"]
    with naming(part), part.open("r+b" if part.exists() else "w+b") as file:
        done = _intact(file, journal.checksums, description)
        journal.keep(done)
        file.seek(0)
        file.write(_MAGIC)
        file.seek(done * block * _record(look.shape), os.SEEK_CUR)
        file.truncate()
        bar = tqdm(
            total=len(files),
            initial=min(done * block, len(files)),
            desc=f"preparing {path.stem} (once)",
            unit=" images",
            disable=None,
            leave=False,
        )
        starts = range(done * block, len(files), block)
        blocks = [range(start, min(start + block, len(files))) for start in starts]
        with bar, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            for places, pixels, left_out in _decoded(files, look, blocks, pool):
                file.write(pixels)
                _to_disk(file)
                journal.add(pixels, left_out)
                bar.update(len(places))
        content = {**description, "checksums": journal.checksums, "left_out": journal.left_out}
        end = json.dumps(content).encode()
        file.write(end + zlib.crc32(end).to_bytes(4, "little") + len(end).to_bytes(8, "little") + _MAGIC)
        _to_disk(file)
    part.replace(path)
    journal.path.unlink(missing_ok=True)


def _intact(file: BinaryIO, checksums: Sequence[int], description: dict[str, Any]) -> int:
    """Return the number of blocks, from the first, that match their checksums."""
    record, block = _record(description["shape"]), description["block"]
    file.seek(len(_MAGIC))
    for number, checksum in enumerate(checksums):
        size = record * min(block, description["images"] - number * block)
        if zlib.crc32(file.read(size)) != checksum:
            return number
    return len(checksums)


def _decoded(
    files: Files, look: Look, blocks: Sequence[range], pool: ThreadPoolExecutor
) -> Iterator[tuple[range, bytes, dict[int, str]]]:
    """Yield each block's indices, its pixels, and the reasons for images that are left out.

    The next block is decoded while the caller writes this block.
    """

    def one(place: int, content: bytes | NDArray[np.uint8] | None) -> tuple[bytes, str]:
        try:
            return decode(files.read(place) if content is None else content, look).tobytes(), ""
        except LeftOutError as reason:
            return bytes(_record(look.shape)), str(reason)
        except OSError as error:
            return bytes(_record(look.shape)), f"unreadable ({error.strerror or error})"

    def started(places: range) -> Iterator[tuple[bytes, str]]:
        contents = [files.read(place) if files.in_order else None for place in places]
        return pool.map(one, places, contents)

    under_way = [(blocks[0], started(blocks[0]))] if blocks else []
    for following in [*blocks[1:], None]:
        if under_way and following is not None:
            under_way.append((following, started(following)))
        if under_way:
            places, results = under_way.pop(0)
            found = list(results)
            left_out = {place: why for place, (_, why) in zip(places, found, strict=True) if why}
            yield places, b"".join(pixels for pixels, _ in found), left_out
