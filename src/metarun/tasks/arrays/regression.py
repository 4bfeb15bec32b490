"""Few-shot regression: many small tasks in one file."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.errors import ConfigError
from metarun.tasks.arrays.scaling import Scaling
from metarun.tasks.arrays.table import Table
from metarun.tasks.draws import Draws
from metarun.tasks.given import as_numbers
from metarun.tasks.images.pool import Pool, kept_on
from metarun.tasks.metrics import Loss, Metric, Scoring, mean_squared_error
from metarun.tasks.reading import RowReading
from metarun.tasks.regression import REGRESSION
from metarun.tasks.types import SPLITS, Examples, Split, Targets, Tasks


class ArrayTasks:
    """Few-shot regression: each task is drawn from the rows of one value of the task column; see `arrays`.

    Raises:
        ConfigError: a split has no task with enough rows, or the targets are not numbers.
    """

    loss: Loss = staticmethod(mean_squared_error)
    metrics: tuple[Metric, ...] = REGRESSION
    targets: Targets = "values"

    def __init__(
        self, table: Table, *, shot: int, query: int, train_shot: int | None, seed: int, dtype: torch.dtype
    ) -> None:
        self.table, self.shot, self.query, self.train_shot = table, shot, query, train_shot or shot
        self.seed, self.dtype = seed, dtype
        self.input_shape: tuple[int, ...] = tuple(table.x.shape[1:])
        self.target_scaling, self.y = _targets(table, dtype)
        self.output_size: int | None = self.y.shape[1]
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

        `info["task"]` [T] is the index of the task, `info["row"]` [T, query + shot] the indices of its rows.
        """
        if not self._pools:
            self.prepare(torch.device("cpu"))
        split = "test" if self.for_tests else split  # the file has no training tasks
        pool, y = self._pools[split]
        draws = Draws(self.seed, SPLITS.index(split), first_episode, count, y.device)
        shots = self._shots(split)
        task = draws.choose(len(pool.counts), 1)  # [T, 1]
        row = draws.choose(pool.most, self.query + shots, rooms=pool.counts[task.squeeze(1)])
        tasks = task.expand_as(row)
        x = pool.take(tasks, row)
        x = as_numbers(x, self.dtype)
        everything = Examples(x, y[pool.places[pool.first[tasks] + row]])
        # Query rows come first, so that a task has the same ones at any number of shots.
        return Tasks(
            everything.take(slice(self.query, None)),
            everything.take(slice(self.query)),
            {"task": task.squeeze(1), "row": row},
            scoring=Scoring(self.loss, self.metrics),
        )

    def reading(self) -> RowReading:
        """Return how a user's own rows are read."""
        rows = self.table.rows
        scalings = (self.table.scaling, self.target_scaling)
        return RowReading(
            self.input_shape, rows.inputs, rows.target, *scalings, of_bytes=self.table.scaling is None
        )

    def facts(self) -> dict[str, Any]:
        """Return what `metarun data` shows about the file."""
        tasks = ", ".join(f"{split} {len(self._chosen(split)):,}" for split in SPLITS)
        return {"tasks": f"{len(self.table.names):,} ({tasks})", **self.table.facts()}

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        kept = {task for split in SPLITS for task in self._chosen(split).tolist()}
        small = [name for task, name in enumerate(self.table.names) if task not in kept]
        tasks = {split: len(self._chosen(split)) for split in SPLITS}
        return {**self.table.described(), "tasks": tasks, "small_tasks": small}


def _targets(table: Table, dtype: torch.dtype) -> tuple[Scaling, Tensor]:
    """Return the sorted rows' targets, standardised by those of the training tasks, [n, d]."""
    y = table.rows.y
    if y.dtype == object:
        raise ConfigError(f"{table.path}: the targets are texts: expected numbers", "@source.target=NAME")
    values = y.reshape(len(y), -1).astype(np.float64)[table.order]
    in_training = np.array([split == "train" for split in table.split_of])[table.labels.numpy()]
    scaling = Scaling.fit(values, in_training, "standard")
    assert scaling is not None
    return scaling, scaling.apply(values, dtype)
