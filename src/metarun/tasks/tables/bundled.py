"""The real tables that come with scikit-learn, each episode a random half of one of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import ConfigError, MetarunError
from metarun.fields import Count, Seed
from metarun.tasks.draws import Draws
from metarun.tasks.metrics import (
    ACCURACY,
    CALIBRATION_ERROR,
    Loss,
    Scoring,
    cross_entropy,
    mean_squared_error,
)
from metarun.tasks.regression import REGRESSION
from metarun.tasks.tables.rows import standardised, widened
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks

Table = Literal["breast_cancer", "wine", "iris", "digits", "diabetes"]
# Number of columns and of classes (0: the targets are values) of each table.
SIZES: dict[Table, tuple[int, int]] = {
    "breast_cancer": (30, 2),
    "wine": (13, 3),
    "iris": (4, 3),
    "digits": (64, 10),
    "diabetes": (10, 0),
}


class BundledTable:
    """Episodes of one table: support rows are drawn from a random half, and the other half is the query set.

    Columns are standardised by the support rows. As in `TabularPrior`, columns of zeros fill up the rows to
    `width`, so that a network that was trained on `TabularPrior` can read them. The table is not meant for
    training: every split has the same rows.

    Args:
        table: breast_cancer, wine, iris, digits (classes), or diabetes (values).
        shot: most support rows; null: the whole half.
        width: number of entries of x, as in the run that is tested.
        most_classes: number of classes that the learner can predict, as in the run that is tested.
        seed: determines the halves.
        dtype: of the rows.

    Raises:
        ConfigError: the table has more columns than `width`, or more classes than `most_classes`.
    """

    for_tests: ClassVar[bool] = True
    may_lack_classes: ClassVar[bool] = True  # a support set may not show each class

    def __init__(
        self,
        *,
        table: Table = "breast_cancer",
        shot: Count | None = 128,
        width: Annotated[int, Field(ge=1, le=10_000)] = 64,
        most_classes: Count = 10,
        seed: Seed = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.table, self.shot, self.width, self.seed, self.dtype = table, shot, width, seed, dtype
        self.columns, self.ways = SIZES[table]
        self.targets: Targets = "classes" if self.ways else "values"
        self.loss: Loss = cross_entropy if self.ways else mean_squared_error
        self.metrics = (ACCURACY, CALIBRATION_ERROR) if self.ways else REGRESSION
        self.input_shape, self.output_size = (width,), most_classes if self.ways else 1
        if self.columns > width:
            raise ConfigError(
                f"@source.width={width}: {table} has {self.columns} columns", f"@source.width={self.columns}"
            )
        if self.ways > most_classes:
            raise ConfigError(
                f"@source.most_classes={most_classes}: {table} has {self.ways} classes",
                f"@source.most_classes={self.ways}",
            )
        self._rows: tuple[Tensor, Tensor] | None = None

    def prepare(self, device: torch.device) -> None:
        """Read the table and keep it on the device.

        Raises:
            MetarunError: scikit-learn is not installed.
        """
        try:
            from sklearn import datasets
        except ImportError as error:
            raise MetarunError("data=tables needs scikit-learn: pip install 'metarun[sklearn]'") from error
        loaded: Any = getattr(datasets, f"load_{self.table}")()
        x, y = (torch.as_tensor(values, device=device) for values in (loaded.data, loaded.target))
        self._rows = x.double(), y.long() if self.ways else y.double()[:, None]

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1; `info["row"]` are the rows' indices."""
        if self._rows is None:
            self.prepare(torch.device("cpu"))
        assert self._rows is not None
        x, y = self._rows
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, x.device)
        half = (len(x) + 1) // 2
        shots = half if self.shot is None else min(self.shot, half)
        order = draws.choose(len(x), len(x))
        order = torch.cat([order[:, :shots], order[:, half:]], 1)
        known = torch.full((count,), shots, device=x.device)
        rows = standardised(x[order], known, shots)
        columns = torch.full((count,), self.columns, device=x.device)
        targets = y[order] if self.ways else standardised(y[order], known, shots).to(self.dtype)
        everything = Examples(widened(rows, columns, self.width).to(self.dtype), targets)
        ways = torch.full((count,), self.ways, device=x.device) if self.ways else None
        tasks = Tasks(everything.take(slice(shots)), everything.take(slice(shots, None)), {"row": order})
        return replace(tasks, ways=ways, scoring=Scoring(self.loss, self.metrics))
