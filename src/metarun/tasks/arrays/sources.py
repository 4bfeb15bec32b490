"""Few-shot classification and few-shot regression of a user's own numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.errors import ConfigError
from metarun.fields import Count, Seed
from metarun.system.files import found
from metarun.system.randomness import Seeding, Streams
from metarun.tasks.arrays.files import read_columns
from metarun.tasks.arrays.rows import Roles, Rows, rows_of, text_of
from metarun.tasks.arrays.scaling import Scale, scaled
from metarun.tasks.division import NAMES, Shares, check_shares, divided
from metarun.tasks.draws import Draws
from metarun.tasks.images.class_episodes import Smoothing, Way
from metarun.tasks.images.named import NamedClasses
from metarun.tasks.images.pool import Pool, kept_on
from metarun.tasks.metrics import Loss, Scoring, mean_squared_error
from metarun.tasks.regression import REGRESSION
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks

_WAY = 5


@dataclass(frozen=True)
class Table:
    """A file's rows, sorted by class or by task.

    Attributes:
        path: of the file.
        rows: in the file's order.
        order: the rows, sorted by class or task, int64 [n].
        labels: the class or task of each sorted row, int64 [n].
        names: of the classes or tasks.
        split_of: the split of each.
        x: the inputs in that order, [n, *shape].
    """

    path: Path
    rows: Rows
    order: NDArray[np.int64]
    labels: Tensor
    names: list[str]
    split_of: list[Split]
    x: Tensor

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of the file."""
        lines: dict[str, Any] = {"file": str(self.path.resolve()), "rows": f"{len(self.labels):,}"}
        if self.rows.names:
            lines["columns"] = ", ".join(self.rows.names[:20]) + (" …" if len(self.rows.names) > 20 else "")
        return lines

    def described(self) -> dict[str, Any]:
        """Return what identifies the file, for a run's manifest."""
        digest = hashlib.sha256(self.x.numpy().tobytes() + self.labels.numpy().tobytes())
        return {"file": str(self.path.resolve()), "fingerprint": digest.hexdigest(), "rows": len(self.labels)}


@dataclass(frozen=True)
class Rules:
    """How rows become tasks: the shares of the splits, what draws them, and how inputs are scaled."""

    shares: Shares
    streams: Streams
    scale: Scale
    dtype: torch.dtype


def _table(path: Path, rows: Rows, groups: list[str], rules: Rules) -> Table:
    """Return the rows sorted by their groups, which are divided between the splits."""
    names, inverse = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
    own = None if rows.split is None else _own_splits(path, groups, rows.split, names.tolist())
    split_of = divided(len(names), own, rules.shares, rules.streams.generator("split"))
    order = np.argsort(inverse, kind="stable")
    in_training = np.array([split == "train" for split in split_of])[inverse]
    x = scaled(rows.x, in_training, rules.scale, rules.dtype)[torch.from_numpy(order)]
    labels = torch.from_numpy(inverse[order].astype(np.int64))
    return Table(path, rows, order, labels, names.tolist(), split_of, x)


def _own_splits(path: Path, groups: list[str], splits: list[str], names: list[str]) -> list[Split]:
    """Return the split of each group, of the splits of its rows."""
    found: dict[str, Split] = {}
    for group, split in zip(groups, splits, strict=True):
        if split.lower() not in NAMES:
            raise ConfigError(f"{path}: the split {split or 'is empty'}: expected train, val or test")
        if found.setdefault(group, NAMES[split.lower()]) != NAMES[split.lower()]:
            raise ConfigError(
                f"{path}: {group} is in several splits, and a learner is tested on what it has not seen",
                "@source.split=null, to divide by class or by task",
            )
    return [found[name] for name in names]


class ArrayClasses(NamedClasses):
    """Few-shot classification of rows of numbers; see `arrays`."""

    def __init__(self, table: Table, **shared: Any) -> None:
        self.table, self.input_shape = table, tuple(table.x.shape[1:])
        counts = torch.bincount(table.labels, minlength=len(table.names))
        self.has(table.names, table.split_of, counts)
        super().__init__(**shared)

    def pools(self) -> Mapping[Split, Pool]:
        """Return each split's rows."""
        used = torch.ones(len(self.table.labels), dtype=torch.bool)
        return self.divided_pools(self.table.x, self.table.labels, used)

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of the file."""
        return self.table.facts()

    def described(self) -> dict[str, Any]:
        """Return what the data turned out to be, as plain values for a run's manifest."""
        return {**self.table.described(), **super().described()}


class ArrayTasks:
    """Few-shot regression: each task is drawn from the rows of one value of the task column; see `arrays`.

    Raises:
        ConfigError: a split has no task with enough rows, or the targets are texts.
    """

    loss: Loss = staticmethod(mean_squared_error)
    metrics = REGRESSION
    targets: Targets = "values"

    def __init__(
        self, table: Table, *, shot: int, query: int, train_shot: int | None, seed: int, dtype: torch.dtype
    ) -> None:
        self.table, self.shot, self.query, self.train_shot = table, shot, query, train_shot or shot
        self.seed, self.dtype = seed, dtype
        self.input_shape = tuple(table.x.shape[1:])
        self.y = _targets(table, dtype)
        self.output_size = self.y.shape[1]
        self.for_tests = "train" not in table.split_of
        self._counts = torch.bincount(table.labels, minlength=len(table.names))
        self._pools: dict[Split, tuple[Pool, Tensor]] = {}
        for split in SPLITS[2:] if self.for_tests else SPLITS:
            if not len(self._chosen(split)):
                told = f"of {table.split_of.count(split)} with {self._needed(split)} rows or more"
                raise ConfigError(
                    f"{table.path}: the {split} split has no task {told}",
                    "fewer @source.shot and @source.query, or other @source.shares",
                )

    def _shots(self, split: Split) -> int:
        return self.train_shot if split == "train" else self.shot

    def _needed(self, split: Split) -> int:
        return self._shots(split) + self.query

    def _chosen(self, split: Split) -> Tensor:
        """Return the tasks of a split that have enough rows, int64 [n]."""
        of_split = torch.tensor([named == split for named in self.table.split_of])
        return (of_split & (self._counts >= self._needed(split))).nonzero().squeeze(1)

    def names(self, split: Split) -> list[str]:
        """Return the names of a split's tasks, in the order of `info["task"]`."""
        return [self.table.names[task] for task in self._chosen(split).tolist()]

    def prepare(self, device: torch.device) -> None:
        """Keep the rows on the device."""
        everything = Pool(self.table.x, torch.arange(len(self.table.labels)), self._counts)
        pools = kept_on(device, {split: everything.of_classes(self._chosen(split)) for split in SPLITS})
        y = self.y.to(device)
        self._pools = {split: (pool, y) for split, pool in pools.items()}

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes first_episode … first_episode + count − 1 of a split.

        `info["task"]` [T] says which task, `info["row"]` [T, query + shot] which of its rows.
        """
        if not self._pools:
            self.prepare(torch.device("cpu"))
        pool, y = self._pools[split]
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, y.device)
        shots = self._shots(split)
        task = draws.choose(len(pool.counts), 1)  # [T, 1]
        row = draws.choose(pool.most, self.query + shots, rooms=pool.counts[task.squeeze(1)])
        tasks = task.expand_as(row)
        x = pool.take(tasks, row)
        x = x.to(self.dtype) / 255 if x.dtype == torch.uint8 else x.to(self.dtype)
        everything = Examples(x, y[pool.places[pool.first[tasks] + row]])
        # Query rows come first, so that a task has the same ones at any number of shots.
        return Tasks(
            everything.take(slice(self.query, None)),
            everything.take(slice(self.query)),
            {"task": task.squeeze(1), "row": row},
            scoring=Scoring(self.loss, self.metrics),
        )

    def facts(self) -> dict[str, Any]:
        """Return what people want to know of the file."""
        tasks = ", ".join(f"{split} {len(self._chosen(split)):,}" for split in SPLITS)
        return {"tasks": f"{len(self.table.names):,} ({tasks})", **self.table.facts()}

    def described(self) -> dict[str, Any]:
        """Return what the data turned out to be, as plain values for a run's manifest."""
        kept = {task for split in SPLITS for task in self._chosen(split).tolist()}
        small = [name for task, name in enumerate(self.table.names) if task not in kept]
        tasks = {split: len(self._chosen(split)) for split in SPLITS}
        return {**self.table.described(), "tasks": tasks, "small_tasks": small}


def _targets(table: Table, dtype: torch.dtype) -> Tensor:
    """Return the sorted rows' targets, standardised by those of the training tasks, [n, d]."""
    y = table.rows.y
    if y.dtype == object:
        raise ConfigError(f"{table.path}: the targets are texts: expected numbers", "@source.target=NAME")
    values = y.reshape(len(y), -1).astype(np.float64)[table.order]
    in_training = np.array([split == "train" for split in table.split_of])[table.labels.numpy()]
    return scaled(values, in_training, "standard", dtype)


def arrays(
    *,
    file: str | None,
    labels: str | None = None,
    features: Sequence[str] | None = None,
    target: str | None = None,
    task: str | None = None,
    split: str | None = None,
    shares: Shares = (0.6, 0.2, 0.2),
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
    seed: Seed = 0,
    seeding: Seeding = "streams",
    home: str = "",
    dtype: torch.dtype = torch.float32,
) -> ArrayClasses | ArrayTasks:
    """Return the tasks of a file of numbers: classification, or regression where `task` names a column.

    Classification: an episode has `way` classes, `shot` and `query` rows of each. Regression: a task is drawn
    from the rows with one value of the task column; targets are standardised by the training tasks.

    Args:
        file: .npz, .npy, .pt, .csv, .tsv or .parquet; see `read_columns`.
        labels: of an .npy file: another one with the labels or targets.
        features: names of the inputs; None: an array called x, X, features, data or inputs, or all columns
            that are nothing else.
        target: name of the labels or targets; None: y, label, labels, class, target or targets.
        task: name of the column that says which task a row is of; None: classification.
        split: name of the column that says train, val or test; None: divided at random.
        shares: of the classes or tasks for train, validation and test.
        scale: of the inputs; see `scaled`.
        way: classes per episode; None: 5, or none in regression.
        shot: support rows per class, or per task.
        query: query rows per class, or per task.
        train_way: see ClassEpisodes.
        train_shot: support rows while training; None: `shot`.
        train_query: see ClassEpisodes.
        train_batch: see ClassEpisodes.
        train_smoothing: see ClassEpisodes.
        query_balance: see ClassEpisodes.
        seed: determines the splits and the episodes.
        seeding: how the split follows from the seed; see `Streams`.
        home: the folder that relative paths start from, if they are there; else the current one.
        dtype: of the inputs.

    Raises:
        ConfigError: the file cannot be used, a key does not fit, or there are too few classes, tasks or rows.
    """
    check_shares(shares)
    if file is None:
        raise ConfigError("@source.file is missing", "@source.file=FILE.csv, or .npz, .npy, .pt, .parquet")
    path = found(file, home)
    columns = dict(read_columns(path))
    if labels is not None:
        columns["y"] = next(iter(read_columns(found(labels, home)).values()))
        if len(columns["y"]) != len(next(iter(columns.values()))):
            raise ConfigError(f"@source.labels={labels}: it has another number of rows than {file}")
    rows = rows_of(path, columns, Roles(features, target, task, split))
    rules = Rules(shares, Streams(seed, seeding), scale, dtype)
    if rows.group is not None:
        unused = {"way": way, "train_way": train_way, "train_query": train_query, "train_batch": train_batch}
        unused |= {"train_smoothing": train_smoothing or None}
        unused |= {"query_balance": None if query_balance == "equal" else query_balance}
        for key, value in unused.items():
            if value is not None:
                raise ConfigError(
                    f"@source.{key}={value} has no effect with @source.task={task}", "leave it out"
                )
        table = _table(path, rows, rows.group, rules)
        sizes = {"shot": shot, "query": query, "train_shot": train_shot}
        return ArrayTasks(table, **sizes, seed=seed, dtype=dtype)  # type: ignore[arg-type]
    groups = [text_of(value) or "" for value in _labels(path, rows)]
    return ArrayClasses(
        _table(path, rows, groups, rules),
        way=way or _WAY,
        shot=shot,
        query=query,
        train_way=train_way,
        train_shot=train_shot,
        train_query=train_query,
        train_batch=train_batch,
        train_smoothing=train_smoothing,
        query_balance=query_balance,
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
