"""Meta-Album: thirty sets of pictures of ten domains in one form (Ullah et al. 2022, arXiv:2302.08909)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from metarun.errors import ConfigError
from metarun.system.files import data_directory, found
from metarun.tasks.images.decoding import Fit
from metarun.tasks.images.folder import ImageFolder
from metarun.tasks.images.listing import Columns


class MetaAlbum(ImageFolder):
    """A set of Meta-Album: images of 128 × 128 pixels with a category each, divided at random.

    `root`, or METARUN_DATA/meta_album/NAME, holds a file labels.csv with the columns FILE_NAME, CATEGORY and
    SUPER_CATEGORY, and a folder images.

    Args:
        name: the set and its size, as in BRD_Mini.
        root: the folder of all sets, or of this one; None: METARUN_DATA, else the user's cache directory.
        by: the column of classes: `category`, `super_category`, or `both` (an episode's classes are of one
            column).
        fit: see ImageFolder.
        home: the folder that a relative root is looked up in first; then the current folder.
        **shared: size, channels, shares, on_bad, and the arguments of ClassEpisodes.

    Raises:
        ConfigError: the set is missing, or has too few classes or images for an episode.
    """

    def __init__(
        self,
        *,
        name: str = "BRD_Mini",
        root: str | None = None,
        by: Literal["category", "super_category", "both"] = "category",
        fit: Fit = "stretch",
        home: str = "",
        **shared: Any,
    ) -> None:
        top = data_directory() / "meta_album" if root is None else found(root, home)
        places = [top / name / "labels.csv", top / "labels.csv"]
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise ConfigError(
                f"@source.name={name}: {places[0]} is not there: fetch Meta_Album_{name} from openml.org "
                f"(meta-album.github.io has the addresses) and put labels.csv and images/ there",
                "@source.root=FOLDER, where they are",
            )
        labels = ("category", "super_category") if by == "both" else (by,)
        super().__init__(root=str(file), labels=labels, fit=fit, home=home, **shared)

    def columns(self, labels: Sequence[str]) -> Columns:
        """Return the names of a set's columns."""
        return Columns("file_name", tuple(labels), "images")
