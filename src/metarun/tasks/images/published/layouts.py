"""The file layouts in which the field's datasets circulate, read from a folder or from an archive."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarun.errors import MetarunError
from metarun.tasks.division import NAMES
from metarun.tasks.images.published.trees import Tree
from metarun.tasks.images.published.unpickling import read_pickle
from metarun.tasks.images.store import Files
from metarun.tasks.types import SPLITS, Split

_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".JPEG", ".JPG", ".PNG")
_SHORT: dict[Split, str] = {"train": "train", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Images:
    """The encoded images of a tree, as `store.Files`."""

    tree: Tree
    paths: Sequence[str]

    @property
    def in_order(self) -> bool:
        """Whether images are read fastest in their order."""
        return self.tree.in_order

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.paths)

    def fingerprint(self) -> str:
        """Return a digest of the names, sizes, and times or checksums of the files."""
        digest, known = hashlib.sha256(), self.tree.names()
        for path in self.paths:
            digest.update(f"{path}\0{known[path]}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def read(self, index: int) -> bytes:
        """Return the content of an image's file."""
        return self.tree.read(self.paths[index])


@dataclass(frozen=True)
class Pixels:
    """Images in memory, as `store.Files`: uint8 [height, width, 3], or encoded as bytes."""

    parts: Sequence[NDArray[np.uint8] | Sequence[Any]]
    in_order: bool = False

    def __len__(self) -> int:
        """Return the number of images."""
        return sum(len(part) for part in self.parts)

    def fingerprint(self) -> str:
        """Return a digest of a few images and of the number of images."""
        digest = hashlib.sha256(str(len(self)).encode())
        for index in range(0, len(self), max(1, len(self) // 50)):
            found = self.read(index)
            digest.update(found if isinstance(found, bytes) else found.tobytes())
        return digest.hexdigest()

    def read(self, index: int) -> bytes | NDArray[np.uint8]:
        """Return an image, or the content of its file."""
        for part in self.parts:
            if index < len(part):
                found = part[index]
                if isinstance(found, np.ndarray) and found.ndim >= 2:
                    return found
                return found if isinstance(found, bytes) else np.asarray(found, np.uint8).tobytes()
            index -= len(part)
        raise IndexError(index)


@dataclass(frozen=True)
class Found:
    """A dataset that was found on the disk.

    Attributes:
        layout: the layout, in words.
        files: the images.
        labels: the class of each image.
        names: names of the classes.
        split_of: the split of each class.
    """

    layout: str
    files: Files
    labels: list[int]
    names: list[str]
    split_of: list[Split]


@dataclass(frozen=True)
class Known:
    """Facts about a dataset that are known before its files are read.

    Attributes:
        split: maps the name of a class to its split, and other names to None.
        pickles: patterns of pickle names, with {split} for train, val and test.
        classes: the split of each class, if all names of classes are known.
    """

    split: Callable[[str], Split | None] = lambda name: None  # noqa: ARG005
    pickles: Sequence[str] = ()
    classes: Mapping[str, Split] = field(default_factory=dict)

    @classmethod
    def of(cls, classes: Mapping[str, Split], pickles: Sequence[str] = ()) -> Known:
        """Return the facts about a dataset if all names of its classes are known."""
        return cls(classes.get, pickles, classes)


Layout = Callable[[Tree, Known], Found | None]


def split_folders(tree: Tree, known: Known) -> Found | None:  # noqa: ARG001
    """Find train/CLASS/image, val/CLASS/image and test/CLASS/image."""
    found: list[tuple[str, str, Split]] = []
    for path in tree.names():
        parts = PurePosixPath(path).parts
        split = NAMES.get(parts[-3].lower()) if len(parts) >= 3 else None
        if split and path.endswith(_IMAGES):
            found.append((path, parts[-2], split))
    if {split for _, _, split in found} != set(SPLITS):
        return None
    return grouped("folders train, val and test", tree, found)


def csv_lists(tree: Tree, known: Known) -> Found | None:  # noqa: ARG001
    """Find train.csv, val.csv and test.csv with a line `file,class` for each image (Ravi & Larochelle)."""
    lists: dict[Split, str] = {}
    images: dict[str, str] = {}
    for path in tree.names():
        pure = PurePosixPath(path)
        if pure.suffix == ".csv" and pure.stem in NAMES:
            lists[NAMES[pure.stem]] = path
        elif path.endswith(_IMAGES):
            images[pure.name] = path
    if set(lists) != set(SPLITS) or not images:
        return None
    found = []
    for split in SPLITS:
        rows = csv.reader(io.StringIO(tree.read(lists[split]).decode("utf-8-sig")))
        for row in rows:
            name = PurePosixPath(row[0]).name if row else ""
            if name in images:
                found.append((images[name], row[1], split))
    return grouped("images with train.csv, val.csv and test.csv", tree, found)


def class_folders(tree: Tree, known: Known) -> Found | None:
    """Find CLASS/image for classes whose splits are known by name."""
    found = []
    for path in tree.names():
        parts = PurePosixPath(path).parts
        split = known.split(parts[-2]) if len(parts) >= 2 and path.endswith(_IMAGES) else None
        if split:
            found.append((path, parts[-2], split))
    if {split for _, _, split in found} != set(SPLITS):
        return None
    return grouped("a folder for each class", tree, found)


def grouped(layout: str, tree: Tree, found: Iterable[tuple[str, str, Split]]) -> Found:
    """Return the dataset of the given (path, class, split), in the order of the tree."""
    found = list(found)
    names = sorted(
        {(split, name) for _, name, split in found}, key=lambda pair: (SPLITS.index(pair[0]), pair[1])
    )
    place = {pair: number for number, pair in enumerate(names)}
    return Found(
        layout,
        Images(tree, [path for path, _, _ in found]),
        [place[split, name] for _, name, split in found],
        [name for _, name in names],
        [split for split, _ in names],
    )


def pickles(tree: Tree, known: Known) -> Found | None:
    """Find a pickle for each split: images with labels, or images with the indices of each class.

    These are the caches of miniImageNet (`image_data`, `class_dict`), and those of MetaOptNet and others for
    miniImageNet, CIFAR-FS and FC100 (`data`, `labels`).
    """
    by_name = {PurePosixPath(path).name: path for path in tree.names()}
    for pattern in known.pickles:
        files = {split: by_name.get(pattern.format(split=_SHORT[split])) for split in SPLITS}
        if files["validation"] is None:
            files["validation"] = by_name.get(pattern.format(split="validation"))
        if all(files.values()):
            return _of_pickles(tree, {split: path for split, path in files.items() if path})
    return None


def _of_pickles(tree: Tree, files: Mapping[Split, str]) -> Found:
    parts, labels, names, split_of = [], [], list[str](), list[Split]()
    for split in SPLITS:
        where = f"{tree.path}: {files[split]}"
        with tree.open(files[split]) as file:
            content = read_pickle(file, where)
        plain = {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}
        if "image_data" in plain and isinstance(plain.get("class_dict"), dict):
            images, own = np.asarray(plain["image_data"]), _by_class(plain["class_dict"], where)
        elif "data" in plain and "labels" in plain:
            images, own = np.asarray(plain["data"]), [str(label) for label in plain["labels"]]
        else:
            raise MetarunError(f"{where} holds {', '.join(plain) or type(content).__name__}: expected images")
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) != len(own):
            raise MetarunError(f"{where}: images {images.dtype} {list(images.shape)} with {len(own)} labels")
        classes = sorted(set(own), key=lambda name: (len(name), name))
        place = {name: len(names) + number for number, name in enumerate(classes)}
        parts.append(images)
        labels += [place[name] for name in own]
        names += classes
        split_of += [split] * len(classes)
    return Found("pickles of images", Pixels(parts), labels, names, split_of)


def _by_class(places: Mapping[Any, Any], where: str) -> list[str]:
    found: dict[int, str] = {}
    for name, indices in places.items():
        for index in indices:
            found[int(index)] = str(name)
    if sorted(found) != list(range(len(found))):
        raise MetarunError(f"{where}: its class_dict does not name every image once")
    return [found[i] for i in range(len(found))]


def png_pickles(tree: Tree, known: Known) -> Found | None:  # noqa: ARG001
    """Find tieredImageNet's {split}_images_png.pkl, a list of encoded images, and {split}_labels.pkl."""
    by_name = {PurePosixPath(path).name: path for path in tree.names()}
    wanted = [f"{short}_{what}.pkl" for short in _SHORT.values() for what in ("images_png", "labels")]
    if not all(name in by_name for name in wanted):
        return None
    parts: list[list[Any]] = []
    labels, names, split_of = list[int](), list[str](), list[Split]()
    for split in SPLITS:
        contents = []
        for what in ("images_png", "labels"):
            path = by_name[f"{_SHORT[split]}_{what}.pkl"]
            with tree.open(path) as file:
                contents.append(read_pickle(file, f"{tree.path}: {path}"))
        images, about = contents
        own = [int(label) for label in about["label_specific"]]
        texts = [str(text) for text in about.get("label_specific_str", sorted(set(own)))]
        if len(own) != len(images):
            raise MetarunError(f"{tree.path}: {len(images)} images of {split} with {len(own)} labels")
        classes = sorted(set(own))
        place = {label: len(names) + number for number, label in enumerate(classes)}
        parts.append(list(images))
        labels += [place[label] for label in own]
        names += [texts[label] if label < len(texts) else str(label) for label in classes]
        split_of += [split] * len(classes)
    return Found("tieredImageNet's pickles of encoded images", Pixels(parts), labels, names, split_of)


def cifar100(tree: Tree, known: Known) -> Found | None:
    """Find the files train, test and meta of cifar-100-python; `known` gives the split of each class."""
    by_name = {PurePosixPath(path).name: path for path in tree.names()}
    if known.split("apple") is None or not all(name in by_name for name in ("train", "test", "meta")):
        return None
    content = {}
    for name in ("train", "test", "meta"):
        with tree.open(by_name[name]) as file:
            content[name] = read_pickle(file, f"{tree.path}: {by_name[name]}")
    fine = [str(name) for name in content["meta"]["fine_label_names"]]
    splits = [known.split(name) for name in fine]
    parts, labels = [], list[int]()
    for name in ("train", "test"):
        images = np.asarray(content[name]["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        parts.append(images)
        labels += [int(label) for label in content[name]["fine_labels"]]
    if any(split is None for split in splits):
        missing = [name for name, split in zip(fine, splits, strict=True) if split is None]
        raise MetarunError(f"{tree.path}: the split of {missing[0]} is not known")
    return Found("cifar-100-python", Pixels(parts), labels, fine, [split for split in splits if split])


LAYOUTS: tuple[Layout, ...] = (pickles, png_pickles, cifar100, csv_lists, split_folders, class_folders)
"""All layouts, the most specific first."""
