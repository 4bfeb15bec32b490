"""MedMNIST: medical images of 28 × 28 pixels (Yang et al. 2023, Scientific Data 10:41, version 3.0.2)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from metarun.errors import MetarunError, in_one_line
from metarun.fields import Seed
from metarun.system.downloads import download, md5_of
from metarun.system.files import data_directory, found
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.columns import check_fits
from metarun.tasks.arrays.packages import new_among
from metarun.tasks.arrays.rows import Inputs, Rows
from metarun.tasks.arrays.sources import TableClasses
from metarun.tasks.arrays.table import New, Rules, Table, table_of
from metarun.tasks.division import Shares, check_shares, divided
from metarun.tasks.images.pool import Pool
from metarun.tasks.types import SPLITS, Split

_ADDRESS = "https://zenodo.org/records/10519652/files/{}.npz"
_UNKNOWN = 10**6  # number of images of a class before the file is downloaded

Name = Literal[
    "pathmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
]
"""The datasets with one label per image; chestmnist, with several, is left out."""


class MedMNIST(TableClasses):
    """One of MedMNIST's datasets: uint8 [1 or 3, 28, 28], 2 to 11 classes.

    NAME.npz is read from `root`, and downloaded to it if it is missing.

    Args:
        name: the dataset, as in pathmnist.
        root: folder of the file; None: medmnist in METARUN_DATA, else in the user's cache directory.
        shares: of the classes for train, validation and test.
        new: what is new at test: `classes`; or `rows`: images of the training classes, divided by the
            dataset's own splits; None: `classes` if there are nine or more.
        seed: determines the classes of each split, and the episodes.
        seeding: how the split is derived from the seed; see `Streams`.
        home: the folder that a relative root is looked up in first; then the current folder.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        ConfigError: an episode needs more classes or images than there are.
    """

    unit = "images"

    def __init__(
        self,
        *,
        name: Name = "pathmnist",
        root: str | None = None,
        shares: Shares = (0.6, 0.2, 0.2),
        new: New | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        home: str = "",
        **shared: Any,
    ) -> None:
        check_shares(shares)
        self._name, self._known = name, _known()[name]
        labels: list[str] = self._known["labels"]
        top = data_directory() if root is None else found(root, home)
        self.file = top / "medmnist" / f"{name}.npz" if root is None else top / f"{name}.npz"
        chosen = new or new_among(labels)
        self._rules = Rules(shares, Streams(seed, seeding), "none", torch.float32, chosen)
        self._is_read = self.file.is_file()
        if self._is_read:
            self.has_table(self._read())
        else:
            self.input_shape = (self._known["channels"], 28, 28)
            if self._rules.new == "rows":
                names, split_of = labels * len(SPLITS), [split for split in SPLITS for _ in labels]
            else:
                names = sorted(labels)
                split_of = divided(len(labels), None, shares, self._rules.streams.generator("split"))
            self.has(names, split_of, torch.full((len(names),), _UNKNOWN))
        super().__init__(seed=seed, **shared)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's images; the file is downloaded if it is missing.

        Raises:
            MetarunError: the file cannot be downloaded, or is damaged.
            ConfigError: there are too few images.
        """
        if not self._is_read:
            download(_ADDRESS.format(self._name), self.file, self._known["md5"])
            self.has_table(self._read())
            self._is_read = True
        return super().pools()

    def images(self, split: Split) -> int:
        """Return the number of images of a split; 0 until the file is downloaded."""
        return super().images(split) if self._is_read else 0

    def facts(self) -> dict[str, Any]:
        """Return where the file is, for `metarun data`."""
        return {"file": str(self.file.resolve()), "there": "yes" if self._is_read else "not yet"}

    def _read(self) -> Table:
        """Return the file's images, as a table of classes."""
        parts, labels, splits = [], list[int](), list[str]()
        try:
            with zipfile.ZipFile(self.file) as archive:
                check_fits(self.file, sum(entry.file_size for entry in archive.infolist()))
            with np.load(self.file, allow_pickle=False) as arrays:
                for split in ("train", "val", "test"):
                    images, own_labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
                    self._check(split, images, own_labels)
                    parts.append(images)
                    labels += np.ravel(own_labels).astype(int).tolist()
                    splits += [split] * len(images)
        except (MetarunError, PermissionError):
            raise
        except Exception as error:  # numpy raises many types of errors on damaged files
            raise MetarunError(
                f"{self.file} is damaged, or not {self._name} ({in_one_line(error)[:100]}): delete it, and "
                f"it is fetched again"
            ) from error
        x = np.concatenate(parts).reshape(len(labels), 28, 28, -1).transpose(0, 3, 1, 2)
        names = [self._known["labels"][label] for label in labels]
        own = splits if self._rules.new == "rows" else None
        return table_of(
            self.file, Rows(x, Inputs(["x"]), np.array(names, dtype=object), None, own), names, self._rules
        )

    def _check(self, split: str, images: NDArray[Any], labels: NDArray[Any]) -> None:
        """Raise MetarunError if arrays do not have the shapes and labels of this dataset."""
        channels, classes = self._known["channels"], len(self._known["labels"])
        shape = (len(images), 28, 28, 3) if channels == 3 else (len(images), 28, 28)
        found = f"{self.file}: {split} has images {images.dtype} {list(images.shape)}"
        if images.dtype != np.uint8 or images.shape != shape:
            raise MetarunError(f"{found}, expected uint8 [n, {', '.join(map(str, shape[1:]))}]")
        if labels.dtype.kind not in "iu" or labels.size != len(images):
            raise MetarunError(
                f"{found} and labels {labels.dtype} {list(labels.shape)}, expected one for each"
            )
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise MetarunError(f"{found}, and labels from {labels.min()} to {labels.max()} of {classes}")

    def verify(self) -> list[str]:
        """Return the problems of the file."""
        if not self._is_read:
            return [f"{self.file} is not there: metarun data prepare fetches it"]
        found = md5_of(self.file)
        return (
            [] if found == self._known["md5"] else [f"{self.file} has the MD5 {found}, not the published one"]
        )


def _known() -> dict[str, Any]:
    """Return MD5, channels and labels of each dataset, as the package medmnist states them."""
    text = (files("metarun.tasks.images.published") / "splits" / "medmnist.json").read_text(encoding="utf-8")
    known: dict[str, Any] = json.loads(text)
    return known
