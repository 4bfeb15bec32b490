"""Datasets with published splits, which are found in any of their layouts, or downloaded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from metarun.errors import ConfigError, MetarunError
from metarun.fields import Seed
from metarun.system.downloads import download
from metarun.system.files import data_directory, found, write_text
from metarun.tasks.images.decoding import Channels, Look
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.published.archives import Archive
from metarun.tasks.images.published.layouts import LAYOUTS, Found, Known, Layout
from metarun.tasks.images.published.trees import FolderTree, is_archive, tree_of
from metarun.tasks.images.store import (
    DamagedStoreError,
    Store,
    check_store,
    describe,
    opened,
    prepared,
    store_path,
)
from metarun.tasks.reading import ImageReading
from metarun.tasks.types import SPLITS, Split

log = logging.getLogger("metarun")

Size = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class _Made:
    """Decoded images and their classes."""

    store: Store
    about: dict[str, Any]


class Published(NamedClasses):
    """A dataset with published splits.

    The files are searched in `root`/NAME and `root`, in every layout of `layouts`: as folders, lists, pickles
    or archives. Archives are read without unpacking them.

    Args:
        root: folder of the files, also for downloads; null: METARUN_DATA, else the user's cache directory.
        size: height and width of the images, in pixels.
        channels: 3 (colour) or 1 (grey).
        seed: determines the episodes.
        home: the folder that a relative root is looked up in first; then the current folder.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Attributes:
        name: name of the dataset and of its folder.
        ways: number of classes of train, validation and test.
        each: fewest images of a class.
        known: the splits and file names of the dataset.
        archives: the archives that may be downloaded.
        by_hand: instructions for the user if a licence or a login prevents the download.

    Raises:
        ConfigError: root is not a folder, or an episode needs more classes or images than there are.
    """

    name: ClassVar[str]
    ways: ClassVar[tuple[int, int, int]]
    each: int
    known: ClassVar[Known]
    archives: ClassVar[tuple[Archive, ...]] = ()
    by_hand: ClassVar[str] = ""

    def __init__(
        self,
        *,
        root: str | None = None,
        size: Size = 84,
        channels: Channels = 3,
        seed: Seed = 0,
        home: str = "",
        **shared: Any,
    ) -> None:
        self.root = None if root is None else found(root, home)
        if self.root is not None and not self.root.is_dir():
            raise ConfigError(
                f"@source.root={root}: there is no such folder; create it to fetch files there, or name "
                f"the folder that holds them"
            )
        self.look = Look(size, channels, "stretch")
        self.input_shape = self.look.shape
        split_of = [split for split, ways in zip(SPLITS, self.ways, strict=True) for _ in range(ways)]
        counts = torch.full((len(split_of),), self.each)
        self.has([f"{split} class" for split in split_of], split_of, counts)
        self._left_out: dict[int, str] = {}
        self._about: dict[str, Any] = {}
        self._digest = ""
        super().__init__(seed=seed, **shared)

    def layouts(self) -> Sequence[Layout]:
        """Return the layouts that the files may have, the most specific first."""
        return LAYOUTS

    def _folders(self) -> list[Path]:
        """Return the folders that may hold the files, the likeliest first."""
        roots = [self.root] if self.root else [data_directory()]
        return [folder for root in roots for folder in (root / self.name, root) if folder.is_dir()]

    def find(self) -> Found | None:
        """Return the dataset in the first layout that is found, or None.

        Raises:
            MetarunError: a file is damaged.
        """
        for folder in self._folders():
            archives = sorted(path for path in folder.iterdir() if path.is_file() and is_archive(path))
            # In a folder that datasets share, only archives with known names are read.
            names = {archive.name for archive in self.archives}
            places = (
                [folder, *archives]
                if self._is_own(folder)
                else [path for path in archives if path.name in names]
            )
            for place in places:
                tree = tree_of(place)
                for layout in self.layouts():
                    if there := layout(tree, self.known):
                        return there
        return None

    def fetch(self) -> None:
        """Download the archives.

        Raises:
            MetarunError: the download fails, or is not allowed without the user's consent.
        """
        folder = (self.root or data_directory()) / self.name
        if not self.archives:
            raise MetarunError(
                f"{self.name} is not in {folder}, and may not be fetched without a person: {self.by_hand}"
            )
        for archive in self.archives:
            log.info("%s: fetching %s to %s", self.name, archive.name, folder)
            download(archive.urls, folder / archive.name, archive.md5, archive.size)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's images; files are downloaded and decoded unless the cache has them.

        Raises:
            MetarunError: files are missing or damaged.
            ConfigError: there are too few classes or images.
        """
        made = self._made_before() or self._make()
        self._about = made.about
        labels = torch.tensor(made.about["labels"])
        self.has(made.about["names"], made.about["split_of"], torch.bincount(labels))
        self._left_out, self._digest = made.store.left_out, made.store.digest
        if made.store.left_out:
            count = len(made.store.left_out)
            log.warning("%s: %d images cannot be read and are left out", self.name, count)
        used = torch.ones(len(labels), dtype=torch.bool)
        used[list(made.store.left_out)] = False
        return self.divided_pools(made.store.images, labels, used)

    def _make(self) -> _Made:
        """Find or download the files, decode them into a store, and write the store's index."""
        there = self.find()
        if there is None:
            self.fetch()
            there = self.find()
        if there is None:
            where = self._where()
            raise MetarunError(
                f"{self.name}: nothing in {where} has a layout that is known: {self._wanted()}"
            )
        about = {
            "files": self._stamp(),
            "layout": there.layout,
            "labels": there.labels,
            "names": there.names,
            "split_of": there.split_of,
            "store": describe(there.files, self.look),
        }
        store = prepared(self._store_name(), there.files, self.look)
        write_text(store.path.with_suffix(".index"), json.dumps(about))
        return _Made(store, about)

    def _made_before(self) -> _Made | None:
        """Return the store if the files are unchanged, else None; large pickles are not read again for it."""
        path = store_path(self._store_name())
        try:
            about = json.loads(path.with_suffix(".index").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if about["files"] != self._stamp():
            return None
        store = opened(path, about["store"])
        return None if store is None else _Made(store, about)

    def _stamp(self) -> str:
        """Return a digest of the names, sizes and times of all files in the dataset's folders."""
        digest = hashlib.sha256()
        for folder in self._folders():
            for name, stamp in FolderTree(folder).names().items() if self._is_own(folder) else ():
                digest.update(f"{folder}/{name}\0{stamp}\n".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def _is_own(self, folder: Path) -> bool:
        """Return whether a folder holds this dataset only."""
        return folder.name == self.name or self.root is not None

    def _store_name(self) -> str:
        digest = hashlib.sha256(f"{self._where()}{self.look}".encode("utf-8", "replace"))
        return f"{self.name}-{self.look.size}-{digest.hexdigest()[:12]}"

    def _where(self) -> str:
        return str((self.root or data_directory() / self.name).resolve())

    def _wanted(self) -> str:
        names = ", ".join(archive.name for archive in self.archives)
        return f"put {names} there" if names else self.by_hand

    def reading(self) -> ImageReading:
        """Return how a user's own images are read."""
        return ImageReading(self.look)

    def facts(self) -> dict[str, Any]:
        """Return where the files are, for `metarun data`."""
        there = self.find()
        lines = {"folder": self._where(), "layout": there.layout if there else "not there"}
        if there is None:
            lines["to get it"] = (
                f"metarun data prepare {self.name} fetches {self.archives[0].name}"
                if self.archives
                else self.by_hand
            )
        return lines

    def verify(self) -> list[str]:
        """Return the problems of the files and of the store made from them."""
        there = self.find()
        if there is None:
            return [f"nothing in {self._where()} has a layout that is known: {self._wanted()}"]
        problems = []
        for split, ways in zip(SPLITS, self.ways, strict=True):
            classes = there.split_of.count(split)
            if classes != ways:
                problems.append(f"{split} has {classes} classes, expected {ways}")
        counts = torch.bincount(torch.tensor(there.labels), minlength=len(there.names)).tolist()
        problems += [
            f"{name} has {count} images, expected {self.each} or more"
            for name, count in zip(there.names, counts, strict=True)
            if count < self.each
        ]
        path = store_path(self._store_name())
        if path.exists() and opened(path, describe(there.files, self.look)) is not None:
            try:
                check_store(path)
            except DamagedStoreError as error:
                problems.append(str(error))
        return problems

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        return {
            "layout": self._about["layout"],
            "pixels": self._digest,
            **super().described(),
            "left_out": dict(Counter(self._left_out.values())),
        }
