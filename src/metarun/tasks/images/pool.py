"""The images of a split by class; classes may have different numbers of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from metarun.tasks.types import Split


@dataclass(frozen=True)
class Pool:
    """Images and the classes that they belong to.

    Attributes:
        images: [N, *shape], uint8 (255 means 1) or floats; may be a memory-mapped file.
        places: indices into `images`: first the images of class 0, then of class 1, and so on, int64 [M].
        counts: number of images of each class, int64 [classes].
        turns: number of rotations that are classes of their own: with 4 and n unrotated classes, class
            r · n + c is class c turned by r · 90°.
        groups: sizes of groups of consecutive classes, int64 [groups]; all classes of an episode are of one
            group. None: there are no groups.
    """

    images: Tensor
    places: Tensor
    counts: Tensor
    turns: int = 1
    groups: Tensor | None = None

    @classmethod
    def of_equal(cls, images: Tensor) -> Pool:
        """Return the pool of images [classes, images of a class, *shape]."""
        classes, each = images.shape[:2]
        flat = images.flatten(0, 1)
        places = torch.arange(classes * each, device=images.device)
        return cls(flat, places, torch.full((classes,), each, device=images.device))

    def of_classes(self, chosen: Tensor) -> Pool:
        """Return the pool of these classes, int64 [k], in this order."""
        parts = [self.places[f : f + n] for f, n in zip(self.first[chosen], self.counts[chosen], strict=True)]
        return replace(self, places=torch.cat([self.places[:0], *parts]), counts=self.counts[chosen])

    @cached_property
    def most(self) -> int:
        """The number of images of the largest class."""
        return int(self.counts.max()) if len(self.counts) else 0

    @cached_property
    def is_equal(self) -> bool:
        """Whether all classes have the same number of images."""
        return bool((self.counts == self.most).all())

    @cached_property
    def first(self) -> Tensor:
        """The index in `places` at which each class begins, int64 [classes]."""
        return self.counts.cumsum(0) - self.counts

    @cached_property
    def labels(self) -> Tensor:
        """The class of each entry of `places`, int64 [M]."""
        return torch.arange(len(self.counts), device=self.counts.device).repeat_interleave(self.counts)

    def turned(self) -> Pool:
        """Return the pool in which each rotation of a class by 90° is a class of its own."""
        return replace(self, places=self.places.repeat(4), counts=self.counts.repeat(4), turns=4)

    def at(self, place: Tensor) -> Tensor:
        """Return the images, [*any, *shape], of entries of `places`, given by their indices, int64 [*any]."""
        x = self.images[self.places[place]]
        if self.turns == 1:
            return x
        turn = place // (len(self.places) // self.turns)
        for k in range(1, self.turns):
            x[turn == k] = x[turn == k].rot90(k, (-2, -1))
        return x

    def take(self, classes: Tensor, index: Tensor) -> Tensor:
        """Return images, [*any, *shape], by class and index in the class, both int64 [*any]."""
        return self.at(self.first[classes] + index)


def kept_on(device: torch.device, pools: Mapping[Split, Pool]) -> dict[Split, Pool]:
    """Return the pools on a device; on a GPU only if all images take less than half of its free memory.

    Images that several splits share are moved once.
    """
    distinct = {pool.images.data_ptr(): pool.images for pool in pools.values()}
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if sum(images.nbytes for images in distinct.values()) > free / 2:
            return dict(pools)
    moved = {pointer: images.to(device) for pointer, images in distinct.items()}
    return {
        split: replace(
            pool,
            images=moved[pool.images.data_ptr()],
            places=pool.places.to(device),
            counts=pool.counts.to(device),
            groups=None if pool.groups is None else pool.groups.to(device),
        )
        for split, pool in pools.items()
    }
