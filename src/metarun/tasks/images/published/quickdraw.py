"""Quick, Draw!: drawings of 345 things; only the beginning of each file is downloaded."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from metarun.errors import MetarunError, in_one_line
from metarun.system.files import data_directory, lock, naming
from metarun.tasks.division import some
from metarun.tasks.images.decoding import Channels
from metarun.tasks.images.published.archives import named_splits
from metarun.tasks.images.published.layouts import Found, Known, Layout
from metarun.tasks.images.published.numbered import bitmaps
from metarun.tasks.images.published.published import Published, Size

log = logging.getLogger("metarun")

_HEADER = 4096  # bytes, at most


class QuickDraw(Published):
    """Drawings [1, 28, 28] of 345 things (Ha & Eck 2017, arXiv:1704.03477), as Meta-Dataset divides them.

    The files have 50 million drawings, 39 GB; the first `each` drawings of each file are downloaded and used.

    Args:
        each: drawings of a class.
        size: height and width of the images, in pixels.
        channels: 1 (grey) or 3 (colour).
        **shared: root and the other arguments of Published.
    """

    name = "quickdraw"
    ways = (241, 52, 52)
    known = Known.of(named_splits("quickdraw"))
    address: ClassVar[str] = "https://storage.googleapis.com/quickdraw_dataset/full/numpy_bitmap/"

    def __init__(
        self,
        *,
        each: Annotated[int, Field(ge=2, le=1_000_000)] = 1000,
        size: Size = 28,
        channels: Channels = 1,
        **shared: Any,
    ) -> None:
        self.each = each
        super().__init__(size=size, channels=channels, **shared)

    def layouts(self) -> Sequence[Layout]:
        """Return the layouts that the files may have, the most specific first."""
        return (partial(bitmaps, each=self.each), *super().layouts())

    def find(self) -> Found | None:
        """Return the dataset or None; warn about files with fewer than `each` drawings."""
        there = super().find()
        if there is not None:
            counts = torch.bincount(torch.tensor(there.labels), minlength=len(there.names))
            few = [
                name for name, count in zip(there.names, counts.tolist(), strict=True) if count < self.each
            ]
            if few:
                log.warning(
                    "quickdraw: %d files have fewer than the %d drawings that are wanted, as %s: delete them "
                    "to fetch more",
                    len(few),
                    self.each,
                    some(few),
                )
        return there

    def _stamp(self) -> str:
        return f"{super()._stamp()}-{self.each}"

    def fetch(self) -> None:
        """Download the beginning of each missing file.

        Raises:
            MetarunError: there is no connection, or a file cannot be written.
        """
        folder = (self.root or data_directory()) / self.name
        was_there = folder.is_dir()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with lock(folder / "quickdraw"):
                missing = [name for name in self.known.classes if not (folder / f"{name}.npy").exists()]
                for name in tqdm(missing, "quickdraw (once)", unit=" files", disable=None, leave=False):
                    self._fetch(f"{self.address}{quote(name)}.npy", folder / f"{name}.npy")
        except OSError as error:
            raise MetarunError(f"{error.filename or folder} cannot be written ({error.strerror})") from error
        finally:
            (folder / "quickdraw.lock").unlink(missing_ok=True)
            if not was_there:
                with suppress(OSError):  # the folder is not empty
                    folder.rmdir()

    def _fetch(self, url: str, path: Path) -> None:
        """Download and write the first drawings of a file."""
        import requests

        wanted = 784 * self.each
        headers = {"Range": f"bytes=0-{_HEADER + wanted - 1}", "Accept-Encoding": "identity"}
        try:
            with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
                answer.raise_for_status()
                content = io.BytesIO()
                # A server without range requests sends the whole file.
                for chunk in answer.iter_content(2**16):
                    content.write(chunk)
                    if content.tell() >= _HEADER + wanted:
                        break
        except requests.RequestException as error:
            by_hand = f"put the .npy files of {self.address} into {path.parent}"
            raise MetarunError(
                f"{path.name} cannot be fetched ({in_one_line(error)[:100]}): {by_hand}"
            ) from error
        rows = _first_rows(content, self.each, url)
        part = path.with_suffix(".part")
        with naming(part), part.open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _wanted(self) -> str:
        return f"put the .npy files of {self.address} there"


def _first_rows(content: io.BytesIO, most: int, url: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the first rows of an .npy file, uint8 [n, 784]."""
    content.seek(0)
    try:
        version = np.lib.format.read_magic(content)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, is_fortran, dtype = read(content)
    except ValueError as error:
        raise MetarunError(f"{url} is no array ({in_one_line(error)[:100]})") from error
    if dtype != np.uint8 or is_fortran or len(shape) != 2 or shape[1] != 784:
        raise MetarunError(f"{url} is {dtype} {list(shape)}: expected uint8 [n, 784]")
    count = min(most, shape[0])
    rows = content.read(784 * count)
    if len(rows) < 784 * count:
        raise MetarunError(f"{url} was cut off: type the same again, and it goes on")
    return np.frombuffer(rows, np.uint8).reshape(count, 784)
