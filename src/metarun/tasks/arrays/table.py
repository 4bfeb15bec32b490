"""The rows of a file, sorted by class or by task, and divided between the splits."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.errors import ConfigError
from metarun.system.randomness import Streams
from metarun.tasks.arrays.rows import Rows
from metarun.tasks.arrays.scaling import Scale, Scaling, scaled
from metarun.tasks.division import NAMES, Shares, divided, divided_rows
from metarun.tasks.types import SPLITS, Split

New = Literal["classes", "rows"]
"""What is new at test: classes, or rows of the classes that the learner was trained on."""


@dataclass(frozen=True)
class Table:
    """A file's rows, sorted by class or by task.

    Attributes:
        path: the file.
        rows: the rows in the file's order.
        order: index of each row in the file, sorted by class or task, int64 [n].
        labels: index of the class or task of each sorted row, int64 [n].
        names: names of the classes or tasks.
        split_of: the split of each class or task.
        x: the scaled inputs of the sorted rows, [n, *shape].
        scaling: the scaling of the inputs; None: uint8 inputs are not scaled.
    """

    path: Path
    rows: Rows
    order: NDArray[np.int64]
    labels: Tensor
    names: list[str]
    split_of: list[Split]
    x: Tensor
    scaling: Scaling | None

    def facts(self) -> dict[str, Any]:
        """Return what `metarun data` shows about the file."""
        lines: dict[str, Any] = {"file": str(self.path.resolve()), "rows": f"{len(self.labels):,}"}
        if self.rows.x.ndim == 2:
            names = self.rows.inputs.names
            lines["columns"] = ", ".join(names[:20]) + (" …" if len(names) > 20 else "")
        return lines

    def described(self) -> dict[str, Any]:
        """Return what identifies the file, for a run's manifest."""
        digest = hashlib.sha256(self.x.numpy().tobytes() + self.labels.numpy().tobytes())
        return {"file": str(self.path.resolve()), "fingerprint": digest.hexdigest(), "rows": len(self.labels)}


@dataclass(frozen=True)
class Rules:
    """How rows become tasks: shares and random streams of the splits, and the scaling of inputs."""

    shares: Shares
    streams: Streams
    scale: Scale
    dtype: torch.dtype
    new: New = "classes"


def table_of(path: Path, rows: Rows, groups: list[str], rules: Rules) -> Table:
    """Return the rows sorted by group, and divided by groups, or within each group if `rules.new` is rows.

    Args:
        path: the file.
        rows: its rows.
        groups: the class or task of each row.
        rules: how rows are divided and scaled.
    """
    named = None if rows.split is None else [_split_named(path, split) for split in rows.split]
    generator = rules.streams.generator("split")
    if rules.new == "rows":
        of_rows = named or divided_rows(groups, rules.shares, generator)
        keys = [f"{SPLITS.index(split)}{group}" for split, group in zip(of_rows, groups, strict=True)]
        found, inverse = np.unique(np.array(keys, dtype=object).astype(str), return_inverse=True)
        names = [key[1:] for key in found.tolist()]
        split_of = [SPLITS[int(key[0])] for key in found.tolist()]
    else:
        found, inverse = np.unique(np.array(groups, dtype=object).astype(str), return_inverse=True)
        names = found.tolist()
        own = None if named is None else _own_splits(path, groups, named, names)
        split_of = divided(len(names), own, rules.shares, generator)
    order = np.argsort(inverse, kind="stable")
    in_training = np.array([split == "train" for split in split_of])[inverse]
    scaling = Scaling.fit(rows.x, in_training, rules.scale)
    x = scaled(rows.x, scaling, rules.dtype)[torch.from_numpy(order)]
    labels = torch.from_numpy(inverse[order].astype(np.int64))
    return Table(path, rows, order, labels, names, split_of, x, scaling)


def _split_named(path: Path, text: str) -> Split:
    if text.lower() not in NAMES:
        raise ConfigError(f"{path}: the split {text or 'is empty'}: expected train, val or test")
    return NAMES[text.lower()]


def _own_splits(path: Path, groups: list[str], splits: list[Split], names: list[str]) -> list[Split]:
    """Return the split of each group in `names`; all rows of a group must have the same split.

    Raises:
        ConfigError: a group has rows of several splits.
    """
    found: dict[str, Split] = {}
    for group, split in zip(groups, splits, strict=True):
        if found.setdefault(group, split) != split:
            raise ConfigError(
                f"{path}: {group} is in several splits, and a learner is tested on classes or tasks that it "
                f"has not seen",
                "@source.split=null, to divide by class or by task, or @source.new=rows, to test on other "
                "rows of the same classes",
            )
    return [found[name] for name in names]
