"""A user's own images: a folder for each class, or a csv of paths and labels."""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import ConfigError, MetarunError
from metarun.fields import Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.decoding import Channels, Fit, Look
from metarun.tasks.images.listing import Listing, listed
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
from metarun.tasks.types import SPLITS, Split

log = logging.getLogger("metarun")

Share = Annotated[float, Field(ge=0, le=1)]
Shares = tuple[Share, Share, Share]
_NAMED = 3  # files named in a message


class ImageFolder(ClassEpisodes):
    """Images that Pillow can read, a folder for each class.

    `root` holds the folders of the classes; or folders train, val and test that hold them; or it is a csv
    file with the columns path, label and, if there is one, split. Classes without a split are divided at
    random. Images are decoded once, into a file in the cache that is mapped into memory.

    Left out, and named, are files that are empty, damaged, animated, in CMYK, of 16 bits or huge, and classes
    with fewer images than an episode of their split needs.

    Args:
        root: the folder or the csv file.
        size: height and width of the images, in pixels.
        channels: 3 (colour) or 1 (grey).
        fit: how a picture becomes square: `crop` its middle, `stretch` it, or `pad` it.
        levels: how many folders below one another name a class.
        shares: of the classes for train, validation and test, where no folder or column says it.
        on_bad: `skip` files that cannot be used, or `stop` at them.
        seed: determines the episodes, and the classes of each split.
        seeding: how the split follows from the seed; see `Streams`.
        home: the folder that a relative root starts from, if it is there; else the current one.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        ConfigError: there is no such folder, it holds no images, or too few classes or images for an episode.
    """

    def __init__(
        self,
        *,
        root: str | None,
        size: Annotated[int, Field(ge=1, le=4096)] = 84,
        channels: Channels = 3,
        fit: Fit = "crop",
        levels: Annotated[int, Field(ge=1, le=10)] = 1,
        shares: Shares = (0.6, 0.2, 0.2),
        on_bad: Literal["skip", "stop"] = "skip",
        seed: Seed = 0,
        seeding: Seeding = "streams",
        home: str = "",
        **shared: Any,
    ) -> None:
        if root is None:
            raise ConfigError("@source.root is missing", "@source.root=FOLDER, a folder of classes")
        if abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(
                f"@source.shares={list(shares)} have the sum {sum(shares):g}", "@source.shares=[0.6,0.2,0.2]"
            )
        there, here = Path(home, Path(root).expanduser()), Path(root).expanduser()
        self.root = there if there.exists() else here
        self.look, self.on_bad = Look(size, channels, fit), on_bad
        self.input_shape = self.look.shape
        self.listing = listed(self.root, levels)
        generator = Streams(seed, seeding).generator("split")
        self.split_of = divided(self.listing, shares, generator)
        self._counts = torch.bincount(torch.tensor(self.listing.labels), minlength=len(self.listing.names))
        self._store: Store | None = None
        self.for_tests = "train" not in self.split_of
        super().__init__(seed=seed, **shared)

    def _needed(self, split: Split) -> int:
        """Return the number of images that a class of a split must have."""
        if split == "train" and self.train_batch is not None:
            return 0  # the outputs of a network are counted before any file is read
        _, shot, query = self._sizes(split)
        return shot + query

    def chosen(self, split: Split) -> Tensor:
        """Return the classes of a split that have enough images, int64 [n], in order of their names."""
        enough = self._counts >= self._needed(split)
        of_split = torch.tensor([named == split for named in self.split_of])
        return (enough & of_split).nonzero().squeeze(1)

    def names(self, split: Split) -> list[str]:
        """Return the names of a split's classes, in the order of `info["class"]`."""
        return [self.listing.names[c] for c in self.chosen(split).tolist()]

    def classes(self, split: Split) -> int:
        """Return the number of classes of a split that have enough images."""
        return len(self.chosen(split))

    def fewest(self, split: Split) -> int:
        """Return the number of images of a split's smallest class."""
        counts = self._counts[self.chosen(split)]
        return int(counts.min()) if len(counts) else self._needed(split)

    def images(self, split: Split) -> int:
        """Return the number of images of a split."""
        return int(self._counts[self.chosen(split)].sum())

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's images, decoded now where they have not been before.

        Raises:
            MetarunError: a file cannot be used, with on_bad=stop; or the cache cannot be written.
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
        labels = torch.tensor(self.listing.labels)[used]
        self._counts = torch.bincount(labels, minlength=len(self.listing.names))
        self._check_sizes()
        if small := self.small():
            log.warning("%s: too few images in %s", self.root, _some(small))
        everything = Pool(store.images, used.nonzero().squeeze(1), self._counts)
        return {split: everything.of_classes(self.chosen(split)) for split in SPLITS}

    @property
    def store_name(self) -> str:
        """The name of the file of decoded images: one for each folder and look."""
        digest = hashlib.sha256(repr((str(self.root.resolve()), self.look)).encode("utf-8", "replace"))
        plain = re.sub(r"[^A-Za-z0-9_.-]", "_", self.root.resolve().name)[:40]
        return f"{plain}-{self.look.size}-{digest.hexdigest()[:12]}"

    def small(self) -> list[str]:
        """Return the names of classes that have too few images for their split."""
        kept = {c for split in SPLITS for c in self.chosen(split).tolist()}
        return [name for c, name in enumerate(self.listing.names) if c not in kept]

    def _left_out(self, left_out: Mapping[int, str]) -> str:
        whys = Counter(left_out.values())
        files = [f"{self.listing.paths[place]} is {why}" for place, why in left_out.items()]
        several = ", ".join(f"{count} {why}" for why, count in whys.most_common(5))
        counts = f" ({several})" if len(files) > _NAMED else ""
        return f"{len(files)} of {len(self.listing):,} images are left out{counts}: {_some(files)}"

    def described(self) -> dict[str, Any]:
        """Return what the data turned out to be, as plain values for a run's manifest."""
        assert self._store is not None
        return {
            "root": str(self.root.resolve()),
            "fingerprint": self.listing.fingerprint(),
            "classes": {split: self.classes(split) for split in SPLITS},
            "images": {split: self.images(split) for split in SPLITS},
            "left_out": dict(Counter(self._store.left_out.values())),
            "left_out_files": {self.listing.paths[place]: why for place, why in self._store.left_out.items()},
            "small_classes": self.small(),
        }

    def facts(self) -> dict[str, str]:
        """Return where the files are and whether they are prepared, for people to read."""
        is_ready = opened(store_path(self.store_name), describe(self.listing, self.look)) is not None
        return {
            "folder": str(self.root.resolve()),
            "prepared": str(store_path(self.store_name)) if is_ready else "not yet",
        }

    def verify(self) -> list[str]:
        """Return what is wrong with the files, and with those prepared from them; in seconds."""
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

    def _few(self, split: Split) -> tuple[str, str]:
        told = f" of {self.split_of.count(split)} with {self._needed(split)} images or more"
        return told, ", or other @source.shares"


def _some(names: Sequence[str]) -> str:
    """Return the first of these names, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def divided(listing: Listing, shares: Shares, generator: torch.Generator) -> list[Split]:
    """Return the split of each class: the listing's own, or at random in these shares.

    Where it has train and test alone, validation takes its share of the training classes.
    """
    own = listing.splits
    if own is not None and ("validation" in own or "train" not in own or shares[1] == 0):
        return own
    free = [c for c in range(len(listing.names)) if own is None or own[c] == "train"]
    wanted = shares if own is None else (shares[0], shares[1], 0.0)
    result: list[Split] = ["test"] * len(listing.names)
    order = torch.randperm(len(free), generator=generator).tolist()
    for split, count in zip(SPLITS, _whole_shares(len(free), wanted), strict=True):
        for place in order[:count]:
            result[free[place]] = split
        del order[:count]
    return result


def _whole_shares(total: int, shares: Shares) -> list[int]:
    """Return whole numbers in about these shares, with the sum total; a share above 0 gets 1 if it can."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(count) for count in exact]
    by_rest = sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        if share > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts
