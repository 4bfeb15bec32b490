"""Classes with names and with different numbers of images, divided between the splits."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from metarun.tasks.division import some
from metarun.tasks.images.checks import check_sizes
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.decoding import Look
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.store import Files, prepared
from metarun.tasks.types import SPLITS, Split, Tasks

log = logging.getLogger("metarun")


class NamedClasses(ClassEpisodes):
    """Episodes of named classes; classes with too few images for an episode of their split are left out.

    Subclasses call `has` before they call the constructor.

    Attributes:
        unit: the word for examples in messages, as in "images".
        has_shares: whether `shares` divides the classes.

    Raises:
        ConfigError: an episode needs more classes than a split has.
    """

    unit: ClassVar[str] = "images"
    has_shares: ClassVar[bool] = False

    def has(
        self,
        class_names: Sequence[str],
        split_of: Sequence[Split],
        counts: Tensor,
        set_of: Sequence[int] | None = None,
    ) -> None:
        """Set the classes.

        Args:
            class_names: names of all classes.
            split_of: the split of each class.
            counts: number of images of each class, int64 [classes].
            set_of: index of each class's label set, ascending, if images have several labels; all classes of
                an episode are of one set.
        """
        self.class_names, self.split_of, self.counts = list(class_names), list(split_of), counts
        self.set_of = None if set_of is None else torch.tensor(set_of)
        # Data without training classes is for tests only.
        self.for_tests = "train" not in self.split_of

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes; without training classes, every split has the test episodes."""
        return super().batch("test" if self.for_tests else split, first_episode, count)

    def needed(self, split: Split) -> int:
        """Return the number of images that a class of a split must have."""
        if split == "train" and self.train_batch is not None:
            return 0  # the number of outputs is needed before any file is read
        return super().needed(split)

    def chosen(self, split: Split) -> Tensor:
        """Return the classes of a split that have enough images, int64 [n], ascending."""
        enough = self.counts >= self.needed(split)
        of_split = enough & torch.tensor([named == split for named in self.split_of])
        if self.set_of is not None:  # leave out label sets with too few classes for an episode
            sizes = self.sizes(split)
            way = sizes.fewest_way if self.sampler == "variable" else sizes.way + sizes.distractors
            of_split &= torch.bincount(self.set_of[of_split], minlength=len(self.set_of))[self.set_of] >= way
        return of_split.nonzero().squeeze(1)

    def names(self, split: Split) -> list[str]:
        """Return the names of a split's classes, in the order of `info["class"]`."""
        return [self.class_names[c] for c in self.chosen(split).tolist()]

    def classes(self, split: Split) -> int:
        """Return the number of classes of a split that have enough images."""
        return len(self.chosen(split))

    def fewest(self, split: Split) -> int:
        """Return the number of images in a split's smallest class."""
        counts = self.counts[self.chosen(split)]
        return int(counts.min()) if len(counts) else self.needed(split)

    def images(self, split: Split) -> int:
        """Return the number of images of a split."""
        return int(self.counts[self.chosen(split)].sum())

    def small(self) -> list[str]:
        """Return the names of classes that have too few images for their split."""
        kept = {c for split in SPLITS for c in self.chosen(split).tolist()}
        return [name for c, name in enumerate(self.class_names) if c not in kept]

    def divided_pools(
        self, images: Tensor, labels: Tensor, used: Tensor, members: Tensor | None = None
    ) -> dict[Split, Pool]:
        """Return each split's pool, after counting the images of each class.

        Args:
            images: [n, *input_shape].
            labels: the class of each image, int64 [n]; with `members`, of each membership, int64 [m].
            used: True at images that are used, bool [n].
            members: the image of each membership, int64 [m], if images have several labels.

        Raises:
            ConfigError: too few classes are left.
        """
        if members is None:
            members = torch.arange(len(labels))
        labels, members = labels[used[members]], members[used[members]]
        self.counts = torch.bincount(labels, minlength=len(self.class_names))
        check_sizes(self)
        if small := self.small():
            log.warning("data: too few %s of %s: left out", self.unit, some(small))
        everything = Pool(images, members[labels.argsort(stable=True)], self.counts)
        return {split: self._grouped(everything, self.chosen(split)) for split in SPLITS}

    def drawn_pools(self, name: str, files: Files, look: Look, each: int) -> dict[Split, Pool]:
        """Return each split's pool of generated images; images that are not in the cache yet are drawn.

        Args:
            name: start of the cache file's name.
            files: `each` images of every class, class after class.
            look: the format of stored images.
            each: number of images per class.
        """
        digest = hashlib.sha256(f"{files.fingerprint()}{look}".encode()).hexdigest()
        store = prepared(f"{name}-{look.size}-{digest[:12]}", files, look)
        labels = torch.arange(len(files)) // each
        return self.divided_pools(store.images, labels, torch.ones(len(labels), dtype=torch.bool))

    def _grouped(self, everything: Pool, chosen: Tensor) -> Pool:
        """Return the pool of the chosen classes, grouped by label set if there are several."""
        pool = everything.of_classes(chosen)
        if self.set_of is None or len(chosen) == 0:
            return pool
        sizes = torch.bincount(self.set_of[chosen])
        return replace(pool, groups=sizes[sizes > 0])

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        return {
            "classes": {split: self.classes(split) for split in SPLITS},
            "images": {split: self.images(split) for split in SPLITS},
            "small_classes": self.small(),
        }

    def few(self, split: Split) -> tuple[str, str]:
        """Return texts to append to the message "too few classes in a split" and to its remedy."""
        told = f" of {self.split_of.count(split)} with {self.needed(split)} {self.unit} or more"
        remedy = ", or other @source.shares" if self.has_shares else ""
        if self.classes(split) < self.split_of.count(split):
            remedy += ", or a smaller @source.shot and @source.query"
        return told, remedy
