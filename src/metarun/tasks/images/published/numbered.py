"""Layouts with lists of labels or with arrays: VGG Flower, FGVC Aircraft and Quick, Draw!."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from metarun.errors import MetarunError, in_one_line
from metarun.tasks.images.decoding import LeftOutError
from metarun.tasks.images.published.layouts import Found, Images, Known, Pixels, grouped
from metarun.tasks.images.published.trees import Tree
from metarun.tasks.types import SPLITS, Split

Box = tuple[int, int, int, int]


def flower_numbers(tree: Tree, known: Known) -> Found | None:
    """Find image_00001.jpg … and imagelabels.mat, which lists the class 1 … 102 of each image.

    The labels are in the tree, or beside the archive of the images.

    Raises:
        MetarunError: the labels are damaged, or scipy, which reads them, is not installed.
    """
    images = {}
    for path in tree.names():
        numbered = re.fullmatch(r"image_(\d{5})\.jpg", PurePosixPath(path).name)
        if numbered:
            images[int(numbered[1])] = path
    labels = _beside(tree, "imagelabels.mat")
    if not images or labels is None:
        return None
    names = {int(name[:3]): name for name in known.classes}
    found = []
    for number, label in enumerate(_matlab(labels, f"{tree.path}: imagelabels.mat"), 1):
        name = names.get(label, "")
        split = known.split(name)
        if number in images and split:
            found.append((images[number], name, split))
    return grouped("numbered images with imagelabels.mat", tree, found)


def _beside(tree: Tree, name: str) -> bytes | None:
    """Return the content of a file in the tree, or beside the tree's archive; None: there is no such file."""
    for path in tree.names():
        if PurePosixPath(path).name == name:
            return tree.read(path)
    file = tree.path.parent / name
    return file.read_bytes() if tree.path.is_file() and file.is_file() else None


def _matlab(content: bytes, where: str) -> list[int]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise MetarunError(f"{where} needs scipy: pip install 'metarun[flowers]'") from error
    try:
        return [int(label) for label in np.ravel(loadmat(io.BytesIO(content))["labels"])]
    except Exception as error:  # scipy raises many types of errors on damaged files
        raise MetarunError(f"{where} is damaged ({in_one_line(error)[:100]}): delete it") from error


@dataclass(frozen=True)
class Cropped:
    """Cropped images, as `store.Files`.

    Attributes:
        images: the images before the crop.
        boxes: left, top, right and bottom of each image's crop, in pixels; right and bottom are exclusive.
    """

    images: Images
    boxes: Sequence[Box]

    @property
    def in_order(self) -> bool:
        """Whether images are read fastest in their order."""
        return self.images.in_order

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def fingerprint(self) -> str:
        """Return a digest of the images and the boxes."""
        return hashlib.sha256(f"{self.images.fingerprint()}{list(self.boxes)}".encode()).hexdigest()

    def read(self, index: int) -> NDArray[np.uint8]:
        """Return a cropped image, uint8 [height, width, 3].

        Raises:
            LeftOutError: the file is damaged.
        """
        try:
            with Image.open(io.BytesIO(self.images.read(index))) as image:
                return np.asarray(image.convert("RGB").crop(self.boxes[index]))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise LeftOutError(f"damaged ({in_one_line(error)[:80]})") from error


def aircraft_lists(tree: Tree, known: Known) -> Found | None:
    """Find data/images/*.jpg, images_variant_*.txt with `number variant`, and images_box.txt.

    As in Meta-Dataset, images are cropped to the aircraft's box, which removes the banner at the bottom.
    """
    files = {PurePosixPath(path).name: path for path in tree.names()}
    lists = [name for name in files if re.fullmatch(r"images_variant_(train|val|test)\.txt", name)]
    if len(lists) < 3 or "images_box.txt" not in files:
        return None
    boxes = {
        number: tuple(map(int, text.split()))
        for number, text in _pairs(tree, files["images_box.txt"]).items()
    }
    found = []
    for name in sorted(lists):
        for number, variant in _pairs(tree, files[name]).items():
            split = known.split(variant)
            if split and f"{number}.jpg" in files and len(boxes.get(number, ())) == 4:
                found.append((files[f"{number}.jpg"], variant, split))
    result = grouped("images with lists of variants and boxes", tree, found)
    assert isinstance(result.files, Images)
    parts: list[Box] = []
    for path in result.files.paths:
        left, top, right, bottom = boxes[PurePosixPath(path).stem]
        parts.append((left - 1, top - 1, right, bottom))  # boxes count from 1, ends included
    return Found(result.layout, Cropped(result.files, parts), result.labels, result.names, result.split_of)


def _pairs(tree: Tree, path: str) -> Mapping[str, str]:
    """Map the first word of each line to the rest of the line."""
    lines = tree.read(path).decode("utf-8", "replace").splitlines()
    return {first: rest.strip() for first, _, rest in (line.partition(" ") for line in lines) if rest.strip()}


def bitmaps(tree: Tree, known: Known, each: int = 1000) -> Found | None:
    """Find CLASS.npy or full_numpy_bitmap_CLASS.npy, uint8 [n, 784] of 28 × 28 pixels.

    Args:
        tree: a folder.
        known: the classes.
        each: most images of a class; the first images of a file are used.

    Raises:
        MetarunError: a file is damaged.
    """
    if tree.path.is_file():
        return None
    files = {PurePosixPath(path).name.removeprefix("full_numpy_bitmap_"): path for path in tree.names()}
    parts: list[NDArray[np.uint8]] = []
    labels, names, split_of = list[int](), list[str](), list[Split]()
    for name in sorted(known.classes, key=lambda each: SPLITS.index(known.classes[each])):
        if f"{name}.npy" in files:
            parts.append(first_bitmaps(tree.path / files[f"{name}.npy"], each))
            labels += [len(names)] * len(parts[-1])
            names.append(name)
            split_of.append(known.classes[name])
    if set(split_of) != set(SPLITS):
        return None
    return Found("arrays of bitmaps", Pixels(parts), labels, names, split_of)


def first_bitmaps(path: Path, each: int) -> NDArray[np.uint8]:
    """Return the first `each` images of a file, uint8 [n, 28, 28], without reading the others."""
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise MetarunError(f"{path} is damaged ({in_one_line(error)[:100]}): delete it") from error
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 784:
        raise MetarunError(f"{path} is {rows.dtype} {list(rows.shape)}: expected uint8 [n, 784]")
    first: NDArray[np.uint8] = rows[:each].reshape(-1, 28, 28)
    return first
