"""The Omniglot archives: find or download and check them, and convert them once to a cached tensor."""

from __future__ import annotations

import errno
import io
import logging
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Literal

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from metarun.errors import MetarunError
from metarun.system.downloads import download
from metarun.system.files import cache_directory, data_directory, lock
from metarun.system.tensor_files import DamagedFileError, read_tensors, write_tensors

log = logging.getLogger("metarun")

Resize = Literal["lanczos", "nearest"]

BACKGROUND, CHARACTERS, DRAWINGS, SIZE = 964, 964 + 659, 20, 28
_SCAN = 105
_HOME = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
# Characters in each archive, and the MD5 of the official file.
_ARCHIVES = {
    "images_background": (BACKGROUND, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation": (CHARACTERS - BACKGROUND, "6b91aef0f799c5bb55b94e3f2daec811"),
}
# Increased whenever the same archives would give another tensor; older caches are then rebuilt.
_VERSION = 1


def load_images(root: Path | None, resize: Resize = "lanczos") -> Tensor:
    """Return uint8 [1623, 20, 28, 28], ink = 255; background characters first, both sets in name order.

    Args:
        root: folder of the two archives (or of a folder `omniglot` that holds them); missing archives are
            downloaded to it. None: METARUN_DATA, else the user's cache directory.
        resize: the resampling filter; each has its own cache.

    Raises:
        MetarunError: an archive is not Omniglot, or cannot be downloaded.
    """
    folder = _folder(root or data_directory())
    suffix = "" if resize == "lanczos" else f"-{resize}"
    cache = cache_directory() / f"omniglot-28{suffix}.pt"
    images = _read_cache(cache, folder, without_archives=root is None)
    if images is not None:
        return images
    try:
        with lock(cache):
            # Another process may have written the cache by now.
            images = _read_cache(cache, folder, without_archives=root is None)
            if images is None:
                images = _read_archives(folder, resize)
                content = {"version": _VERSION, "archives": _sizes(folder), "images": images}
                write_tensors(cache, content)
            return images
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        log.warning(
            "omniglot: %s cannot be written (%s), so every run reads the archives again: "
            "METARUN_CACHE=FOLDER sets another cache",
            cache.parent,
            error.strerror,
        )
        return images if images is not None else _read_archives(folder, resize)


_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


def _read_archives(folder: Path, resize: Resize) -> Tensor:
    """Return the images of both archives, after downloading missing ones."""
    log.info("omniglot: reading the archives in %s, once", folder)
    parts = []
    for name, (characters, md5) in _ARCHIVES.items():
        archive = folder / f"{name}.zip"
        if not archive.exists():
            download(_HOME + archive.name, archive, md5)
        parts.append(_read_archive(archive, characters, resize))
    return torch.cat(parts)


def _folder(root: Path) -> Path:
    """Return root where it holds the archives, else its folder `omniglot`."""
    return root if (root / "images_background.zip").exists() else root / "omniglot"


def _sizes(folder: Path) -> list[int]:
    """Return the archives' sizes in bytes, by which the cache recognises them."""
    archives = [folder / f"{name}.zip" for name in _ARCHIVES]
    return [archive.stat().st_size for archive in archives if archive.exists()]


def _read_cache(cache: Path, folder: Path, *, without_archives: bool) -> Tensor | None:
    """Return the cached images, or None where the cache is missing, damaged or out of date."""
    try:
        content = read_tensors(cache) if cache.exists() else {}
    except DamagedFileError:
        return None
    # Without a root, the cache may be used without archives: it was made from checked archives.
    same_archives = _sizes(folder) == content.get("archives") or (without_archives and _sizes(folder) == [])
    if content.get("version") != _VERSION or not same_archives:
        return None
    images = content["images"]
    assert isinstance(images, Tensor)
    return images


def _read_archive(path: Path, characters: int, resize: Resize) -> Tensor:
    """Return uint8 [characters, 20, 28, 28] from an archive, after checking its content."""
    problem = f"{path} is not the Omniglot archive: expected {characters} characters of {DRAWINGS} drawings"
    remedy = f"delete it to download it again, or put the official {path.name} there"
    try:
        with zipfile.ZipFile(path) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            drawings = Counter(PurePosixPath(name).parent for name in names)
            if len(drawings) != characters or set(drawings.values()) != {DRAWINGS}:
                raise MetarunError(
                    f"{problem}, found {len(drawings)} characters, {len(names)} drawings: {remedy}"
                )
            bar = tqdm(names, f"reading {path.name} (once)", unit=" images", disable=None, leave=False)
            pixels = b"".join(_read_drawing(archive.read(name), resize) for name in bar)
    except (zipfile.BadZipFile, zlib.error, OSError) as error:  # Pillow raises OSError
        raise MetarunError(f"{problem}, found a damaged file ({error}): {remedy}") from error
    return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(characters, DRAWINGS, SIZE, SIZE)


def _read_drawing(png: bytes, resize: Resize) -> bytes:
    """Return 28 × 28 bytes (ink = 255) from a 105 × 105 drawing (ink = 0)."""
    with Image.open(io.BytesIO(png)) as drawing:
        if drawing.size != (_SCAN, _SCAN):
            raise UnidentifiedImageError(f"a drawing of {drawing.size}, expected {(_SCAN, _SCAN)}")
        # Pillow silently takes the nearest pixel when it resizes one-bit images: greyscale first.
        grey = drawing.convert("L").resize((SIZE, SIZE), Image.Resampling[resize.upper()])
    return ImageOps.invert(grey).tobytes()
