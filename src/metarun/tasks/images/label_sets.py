"""Images with several labels: every label column is a label set, and an episode's classes are of one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from metarun.tasks.images.listing import Listing
from metarun.tasks.types import SPLITS, Split

_MISSING = ("", "nan")


@dataclass(frozen=True)
class Memberships:
    """The images of each class, as a list of (class, image) memberships.

    Attributes:
        names: names of the classes.
        split_of: the split of each class.
        set_of: index of each class's label set, ascending; None: there is only one set.
        labels: the class of each membership, int64 [m].
        members: the image of each membership, int64 [m].
    """

    names: list[str]
    split_of: list[Split]
    set_of: list[int] | None
    labels: Tensor
    members: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of images of each class, int64 [classes]."""
        return torch.bincount(self.labels, minlength=len(self.names))


def memberships(listing: Listing, split_of: Sequence[Split], columns: Sequence[str]) -> Memberships:
    """Return the classes of all label sets.

    The classes of the first set are divided between the splits, and so are their images. A label of a further
    set makes one class for each split, from the images of that split.

    Args:
        listing: the images.
        split_of: the split of each class of the first set.
        columns: names of the label sets.
    """
    first = torch.tensor(listing.labels)
    everyone = torch.arange(len(listing))
    if not listing.more:
        return Memberships(list(listing.names), list(split_of), None, first, everyone)
    names = [f"{columns[0]}: {name}" for name in listing.names]
    splits, sets = list(split_of), [0] * len(names)
    labels, members = [first], [everyone]
    for number, (column, texts) in enumerate(zip(columns[1:], listing.more, strict=True), 1):
        keys = [
            (SPLITS.index(split_of[label]), text) if text.lower() not in _MISSING else None
            for label, text in zip(listing.labels, texts, strict=True)
        ]
        classes = sorted({key for key in keys if key is not None})
        place = {key: len(names) + i for i, key in enumerate(classes)}
        having = [(place[key], image) for image, key in enumerate(keys) if key is not None]
        labels.append(torch.tensor([label for label, _ in having], dtype=torch.int64))
        members.append(torch.tensor([image for _, image in having], dtype=torch.int64))
        names += [f"{column}: {text}" for _, text in classes]
        splits += [SPLITS[split] for split, _ in classes]
        sets += [number] * len(classes)
    return Memberships(names, splits, sets, torch.cat(labels), torch.cat(members))
