"""`arrays`: the tasks of a user's file of numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from metarun.errors import ConfigError
from metarun.fields import Count, Seed, Steps
from metarun.system.files import found
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.regression import ArrayTasks
from metarun.tasks.arrays.rows import Roles, Rows, rows_of, text_of
from metarun.tasks.arrays.scaling import Scale
from metarun.tasks.arrays.table import New, Rules, Table, table_of
from metarun.tasks.division import Share, Shares, check_shares
from metarun.tasks.images.class_episodes import Smoothing, Way
from metarun.tasks.images.decoding import Look
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.pool import Pool
from metarun.tasks.images.sampling import Sampler
from metarun.tasks.reading import ImageReading, Reading, RowReading
from metarun.tasks.types import Split, TaskSource

_WAY = 5


class TableClasses(NamedClasses):
    """Few-shot classification of the rows of a table; subclasses call `has_table` before the constructor."""

    unit = "rows"
    has_shares = True

    def has_table(self, table: Table) -> None:
        """Set the table, whose rows are the examples."""
        self.table, self.input_shape = table, tuple(table.x.shape[1:])
        counts = torch.bincount(table.labels, minlength=len(table.names))
        self.has(table.names, table.split_of, counts)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's rows."""
        used = torch.ones(len(self.table.labels), dtype=torch.bool)
        return self.divided_pools(self.table.x, self.table.labels, used)

    def facts(self) -> dict[str, Any]:
        """Return what `metarun data` shows about the file."""
        return self.table.facts()

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        return {**self.table.described(), **super().described()}

    def reading(self) -> Reading:
        """Return how a user's own rows or images are read."""
        rows, shape = self.table.rows, self.input_shape
        if self.table.scaling is None and len(shape) == 3 and shape[0] in (1, 3) and shape[1] == shape[2]:
            return ImageReading(Look(shape[1], shape[0], "stretch"))  # type: ignore[arg-type]
        return RowReading(
            shape, rows.inputs, rows.target, self.table.scaling, of_bytes=self.table.scaling is None
        )


class ArrayClasses(TableClasses):
    """Few-shot classification of rows of numbers; see `arrays`."""

    def __init__(self, table: Table, **shared: Any) -> None:
        self.has_table(table)
        super().__init__(**shared)


def arrays(
    *,
    file: str | None,
    labels: str | None = None,
    features: Sequence[str] | None = None,
    target: str | None = None,
    task: str | None = None,
    split: str | None = None,
    shares: Shares = (0.6, 0.2, 0.2),
    new: New = "classes",
    scale: Scale = "auto",
    way: Way | None = None,
    shot: Count = 5,
    query: Count = 5,
    train_way: Way | None = None,
    train_shot: Count | None = None,
    train_query: Count | None = None,
    train_batch: Count | None = None,
    train_smoothing: Smoothing = 0.0,
    query_balance: Literal["equal", "dirichlet"] = "equal",
    sampler: Sampler = "fixed",
    fewest_way: Way = 5,
    most_support: Count = 500,
    imbalance: Share = 0.0,
    label_noise: Share = 0.0,
    unlabelled: Steps = 0,
    distractors: Steps = 0,
    seed: Seed = 0,
    seeding: Seeding = "streams",
    home: str = "",
    dtype: torch.dtype = torch.float32,
) -> TaskSource:
    """Return the tasks of a file of numbers: classification, or regression where `task` names a column.

    Classification: an episode has `way` classes, `shot` and `query` rows of each. Regression: a task is drawn
    from the rows with one value of the task column; targets are standardised by the training tasks.

    Args:
        file: .npz, .npy, .pt, .csv, .tsv or .parquet; see `read_columns`.
        labels: for an .npy file: a second .npy file with the labels or targets.
        features: names of the inputs; None: an array called x, X, features, data or inputs, or all columns
            that have no other role.
        target: name of the labels or targets; None: y, label, labels, class, target or targets.
        task: name of the column with the task of each row; None: classification.
        split: name of the column with train, val or test; None: divided at random.
        shares: of the classes or tasks for train, validation and test.
        new: what is new at test: `classes`, which training has not seen, or `rows` of the training classes,
            which are then divided by `split` or by `shares`.
        scale: how inputs are scaled; see `Scaling.fit`.
        way: classes per episode; None: 5, or none in regression.
        shot: support rows per class, or per task.
        query: query rows per class, or per task.
        train_way: see ClassEpisodes.
        train_shot: support rows while training; None: `shot`.
        train_query: see ClassEpisodes.
        train_batch: see ClassEpisodes.
        train_smoothing: see ClassEpisodes.
        query_balance: see ClassEpisodes.
        sampler: see ClassEpisodes, which also describes the arguments below.
        fewest_way: fewest classes of an episode, with a variable sampler.
        most_support: most support rows of an episode, with a variable sampler.
        imbalance: how unequal the numbers of support rows of the classes are.
        label_noise: share of wrong labels in support sets.
        unlabelled: rows per class without a label.
        distractors: classes per episode that have only unlabelled rows.
        seed: determines the splits and the episodes.
        seeding: how the split is derived from the seed; see `Streams`.
        home: the folder that relative paths are looked up in first; then the current folder.
        dtype: of the inputs.

    Raises:
        ConfigError: the file cannot be used, a key does not fit, or there are too few classes, tasks or rows.
    """
    check_shares(shares)
    if not file:
        raise ConfigError("@source.file is missing", "@source.file=FILE.csv, or .npz, .npy, .pt, .parquet")
    path = found(file, home)
    columns = dict(read_columns(path))
    if labels is not None:
        columns["y"] = next(iter(read_columns(found(labels, home)).values()))
        if len(columns["y"]) != len(next(iter(columns.values()))):
            raise ConfigError(f"@source.labels={labels}: it has another number of rows than {file}")
    rows = rows_of(path, columns, Roles(features, target, task, split))
    rules = Rules(shares, Streams(seed, seeding), scale, dtype, new)
    if rows.group is not None:
        unused: dict[str, object] = {
            "way": way,
            "train_way": train_way,
            "train_query": train_query,
            "train_batch": train_batch,
        }
        unused |= {"train_smoothing": train_smoothing or None, "imbalance": imbalance or None}
        unused |= {
            "label_noise": label_noise or None,
            "unlabelled": unlabelled or None,
            "sampler": None if sampler == "fixed" else sampler,
        }
        unused |= {"query_balance": None if query_balance == "equal" else query_balance}
        unused |= {"new": None if new == "classes" else new}
        for key, value in unused.items():
            if value is not None:
                raise ConfigError(
                    f"@source.{key}={value} has no effect with @source.task={task}", "leave it out"
                )
        table = table_of(path, rows, rows.group, rules)
        sizes = {"shot": shot, "query": query, "train_shot": train_shot}
        return ArrayTasks(table, **sizes, seed=seed, dtype=dtype)  # type: ignore[arg-type]
    groups = [text_of(value) or "" for value in _labels(path, rows)]
    return ArrayClasses(
        table_of(path, rows, groups, rules),
        way=way or _WAY,
        shot=shot,
        query=query,
        train_way=train_way,
        train_shot=train_shot,
        train_query=train_query,
        train_batch=train_batch,
        train_smoothing=train_smoothing,
        query_balance=query_balance,
        sampler=sampler,
        fewest_way=fewest_way,
        most_support=most_support,
        imbalance=imbalance,
        label_noise=label_noise,
        unlabelled=unlabelled,
        distractors=distractors,
        seed=seed,
        dtype=dtype,
    )


def _labels(path: Path, rows: Rows) -> list[Any]:
    """Return the label of each row."""
    if rows.y.ndim > 1 and rows.y[0].size != 1:
        raise ConfigError(
            f"{path}: the labels are {list(rows.y.shape)}: expected one for each row", "@source.target=NAME"
        )
    flat: list[Any] = rows.y.reshape(len(rows.y)).tolist()
    if rows.y.dtype.kind == "f" and any(not float(value).is_integer() for value in flat):
        raise ConfigError(
            f"{path}: the labels are no whole numbers, and without @source.task they are classes",
            "@source.task=NAME, the column of tasks, for regression",
        )
    return flat
