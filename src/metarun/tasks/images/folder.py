"""A user's own images: a folder for each class, or a csv of paths and labels."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from metarun.errors import ConfigError, MetarunError
from metarun.fields import Seed
from metarun.system.files import found
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.division import Shares, check_shares, divided, some
from metarun.tasks.images.decoding import Channels, Fit, Look
from metarun.tasks.images.label_sets import memberships
from metarun.tasks.images.listing import Columns, listed
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.pool import Pool
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
from metarun.tasks.types import Split

log = logging.getLogger("metarun")

Labels = Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]

_MOST_NAMED = 100  # files that a manifest names


class ImageFolder(NamedClasses):
    """Images that Pillow can read, a folder for each class.

    `root` is a folder with a folder for each class; or a folder with train, val and test, which hold the
    folders of the classes; or a csv file with the columns path, label and optionally split. Classes without
    a split are divided at random. Images are decoded once into a cache file that is memory-mapped.

    Files that are empty, damaged, animated, in CMYK, of 16 bits or too large are left out and named, as are
    classes with fewer images than an episode of their split needs.

    Args:
        root: the folder or the csv file.
        size: height and width of the images, in pixels.
        channels: 3 (colour) or 1 (grey).
        fit: how a picture is made square: `crop` its middle, `stretch` it, or `pad` it.
        levels: number of nested folders whose names form the name of a class.
        labels: label columns of a csv. The classes of the first column are divided between the splits. With
            several columns, the classes of an episode are of one column.
        shares: of the classes for train, validation and test, if no folder or column names the splits.
        on_bad: `skip` files that cannot be used, or `stop` at them.
        seed: determines the episodes, and the classes of each split.
        seeding: how the split is derived from the seed; see `Streams`.
        home: the folder that a relative root is looked up in first; then the current folder.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        ConfigError: the folder does not exist or has no images, or too few classes or images for an episode.
    """

    has_shares = True

    def __init__(
        self,
        *,
        root: str | None,
        size: Annotated[int, Field(ge=1, le=4096)] = 84,
        channels: Channels = 3,
        fit: Fit = "crop",
        levels: Annotated[int, Field(ge=1, le=10)] = 1,
        labels: Labels = ("label",),
        shares: Shares = (0.6, 0.2, 0.2),
        on_bad: Literal["skip", "stop"] = "skip",
        seed: Seed = 0,
        seeding: Seeding = "streams",
        home: str = "",
        **shared: Any,
    ) -> None:
        if not root:
            raise ConfigError("@source.root is missing", "@source.root=FOLDER, a folder of classes")
        check_shares(shares)
        self.root = found(root, home)
        self.look, self.on_bad = Look(size, channels, fit), on_bad
        self.input_shape = self.look.shape
        if self.root.is_dir() and tuple(labels) != ("label",):
            raise ConfigError(
                f"@source.labels={list(labels)} are columns of a csv file", "@source.root=FILE.csv"
            )
        self.listing = listed(self.root, levels, self.columns(labels))
        generator = Streams(seed, seeding).generator("split")
        split_of = divided(len(self.listing.names), self.listing.splits, shares, generator)
        self.members = memberships(self.listing, split_of, labels)
        self.has(self.members.names, self.members.split_of, self.members.counts, self.members.set_of)
        self._store: Store | None = None
        super().__init__(seed=seed, **shared)

    def columns(self, labels: Sequence[str]) -> Columns:
        """Return the names of a csv's columns."""
        return Columns(labels=tuple(label.lower() for label in labels))

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's images; files that are not in the cache yet are decoded.

        Raises:
            MetarunError: a file cannot be used and on_bad is stop, or the cache cannot be written.
            ConfigError: too few classes or images are left.
        """
        store = prepared(self.store_name, self.listing, self.look)
        self._store = store
        if store.left_out:
            said = f"{self.root}: {self._left_out(store.left_out)}"
            if self.on_bad == "stop":
                raise MetarunError(said, "@source.on_bad=skip to leave them out")
            log.warning("%s", said)
        used = torch.ones(len(self.listing), dtype=torch.bool)
        used[list(store.left_out)] = False
        return self.divided_pools(store.images, self.members.labels, used, self.members.members)

    @property
    def store_name(self) -> str:
        """The name of the file of decoded images: one for each folder and look."""
        digest = hashlib.sha256(repr((str(self.root.resolve()), self.look)).encode("utf-8", "replace"))
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", self.root.resolve().name)[:40]
        return f"{plain}-{self.look.size}-{digest.hexdigest()[:12]}"

    def _left_out(self, left_out: Mapping[int, str]) -> str:
        whys = Counter(left_out.values())
        files = [f"{self.listing.paths[place]} is {why}" for place, why in left_out.items()]
        several = ", ".join(f"{count} {why}" for why, count in whys.most_common(5))
        counts = f" ({several})" if len(files) > 3 else ""
        return f"{len(files)} of {len(self.listing):,} images are left out{counts}: {some(files)}"

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        assert self._store is not None
        left_out = {self.listing.paths[place]: why for place, why in self._store.left_out.items()}
        return {
            "root": str(self.root.resolve()),
            "pixels": self._store.digest,
            **super().described(),
            "left_out": dict(Counter(left_out.values())),
            "left_out_files": dict(islice(left_out.items(), _MOST_NAMED)),
        }

    def reading(self) -> ImageReading:
        """Return how a user's own images are read."""
        return ImageReading(self.look)

    def facts(self) -> dict[str, str]:
        """Return where the files are and whether they are prepared, for `metarun data`."""
        is_ready = opened(store_path(self.store_name), describe(self.listing, self.look)) is not None
        return {
            "folder": str(self.root.resolve()),
            "prepared": str(store_path(self.store_name)) if is_ready else "not yet",
        }

    def verify(self) -> list[str]:
        """Return the problems of the files and of the cache made from them, within seconds."""
        path = store_path(self.store_name)
        if not path.exists():
            return [f"{self.root} is not prepared: type metarun data prepare, or train"]
        store = opened(path, describe(self.listing, self.look))
        if store is None:
            return [f"{self.root} has changed since it was prepared: type metarun data prepare, or train"]
        try:
            check_store(path)
        except DamagedStoreError as error:
            return [str(error)]
        return [f"{self.listing.paths[place]}: {why}" for place, why in store.left_out.items()]
