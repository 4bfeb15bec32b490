"""Archives that may be downloaded, and the lists of classes that come with metarun."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from metarun.tasks.types import SPLITS, Split


@dataclass(frozen=True)
class Archive:
    """A file that may be downloaded.

    Attributes:
        name: the file's name.
        urls: its addresses, in the order in which they are tried.
        md5: its MD5.
        size: its size in bytes, if known.
    """

    name: str
    urls: Sequence[str]
    md5: str
    size: int | None = None


@cache
def named_splits(dataset: str) -> dict[str, Split]:
    """Return the split of each class of a dataset, by its name, from splits/DATASET.txt.

    The file has a line `split: name, name, …` for each split, and comments that name the source.
    """
    text = (files("metarun.tasks.images.published") / "splits" / f"{dataset}.txt").read_text(encoding="utf-8")
    found: dict[str, Split] = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            split, _, names = line.partition(":")
            found |= dict.fromkeys(
                (name.strip() for name in names.split(",")), next(known for known in SPLITS if known == split)
            )
    return found
