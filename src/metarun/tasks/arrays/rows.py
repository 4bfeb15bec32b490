"""Turn the columns of a file into inputs, labels or targets, and tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarun.errors import ConfigError, did_you_mean
from metarun.tasks.arrays.columns import MISSING, Column

_INPUTS = ("x", "X", "features", "data", "inputs")
_LABELS = ("y", "label", "labels", "class", "target", "targets")
_MOST_VALUES = 50


@dataclass(frozen=True)
class Rows:
    """The rows of a file.

    Attributes:
        x: inputs, [n, *shape]; floats with NaN where a value is missing, or uint8.
        inputs: the columns that the inputs come from.
        y: labels or targets, as they are in the file; targets are [n, d].
        group: the task of each row, as texts, or None.
        split: the name of each row's split, or None.
        target: the name of the labels or targets.
    """

    x: NDArray[np.float64] | NDArray[np.uint8]
    inputs: Inputs
    y: Column
    group: list[str] | None
    split: list[str] | None
    target: str = "y"


@dataclass(frozen=True)
class Roles:
    """The column of each role; None: the usual names."""

    features: Sequence[str] | None
    target: str | None
    task: str | None
    split: str | None


def rows_of(path: Path, columns: Mapping[str, Column], roles: Roles) -> Rows:
    """Return the rows of a file.

    Columns of numbers are inputs as they are. A column of texts is one-hot encoded; it may have at most 50
    different texts. Rows without a label, a target or a task are left out.

    Raises:
        ConfigError: a column is missing, or has too many different texts.
    """
    for role, name in (("target", roles.target), ("task", roles.task), ("split", roles.split)):
        _check_there(path, columns, role, [name] if name else [])
    target = roles.target or next((name for name in _LABELS if name in columns), None)
    if target is None:
        raise ConfigError(
            f"{path} has {_named(columns)}, of which none is called {', '.join(_LABELS)}",
            "@source.target=NAME",
        )
    others = [name for name in (target, roles.task, roles.split) if name]
    y = columns[target]
    group = _texts(path, roles.task, columns) if roles.task else None
    split = _texts(path, roles.split, columns) if roles.split else None
    inputs = Inputs.among(path, columns, roles, others)
    x = inputs.of(path, columns)
    known: NDArray[np.bool_] = _is_known(y)
    if group is not None:
        known[[i for i, each in enumerate(group) if each is None]] = False
    if not known.any():
        raise ConfigError(f"{path}: no row has a {target}")
    kept = np.flatnonzero(known)

    def of_kept(texts: list[str | None] | None) -> list[str] | None:
        return None if texts is None else [texts[i] or "" for i in kept]

    return Rows(x[kept], inputs, y[kept], of_kept(group), of_kept(split), target)


@dataclass(frozen=True)
class Inputs:
    """The columns that are inputs.

    Attributes:
        columns: names of the columns.
        kinds: the different texts of each column of texts, which is one-hot encoded.
    """

    columns: list[str]
    kinds: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def among(cls, path: Path, columns: Mapping[str, Column], roles: Roles, others: Sequence[str]) -> Inputs:
        """Return the input columns of a file.

        These are the columns that `roles` names, else a column with a usual name such as x, else all columns
        except `others`.
        """
        _check_there(path, columns, "features", roles.features or [])
        chosen = list(roles.features or [])
        if not chosen:
            whole = [
                name for name in _INPUTS if name in columns and name not in others and columns[name].ndim > 1
            ]
            chosen = whole[:1] or [name for name in columns if name not in others]
        if not chosen:
            raise ConfigError(f"{path} has {_named(columns)}, and no column is left for inputs")
        kinds: dict[str, list[str]] = {}
        for name in chosen:
            if columns[name].ndim == 1 and columns[name].dtype == object:
                kinds[name] = sorted({text for text in columns[name] if text is not None})
                if len(kinds[name]) > _MOST_VALUES:
                    raise ConfigError(
                        f"{path}: {name} has {len(kinds[name])} different texts; at most {_MOST_VALUES} "
                        f"become inputs",
                        "@source.features=[…] without it",
                    )
        return cls(chosen, kinds)

    @property
    def names(self) -> list[str]:
        """The names of the inputs; a one-hot input is called COLUMN=TEXT."""
        return [
            label
            for name in self.columns
            for label in ([f"{name}={kind}" for kind in self.kinds[name]] if name in self.kinds else [name])
        ]

    def of(self, path: Path, columns: Mapping[str, Column]) -> NDArray[np.float64] | NDArray[np.uint8]:
        """Return the inputs of a file, [n, *shape]; an unknown text is encoded as zeros.

        Raises:
            ConfigError: a column is missing, or has another type or shape than expected.
        """
        _check_there(path, columns, "features", self.columns)
        if len(self.columns) == 1 and columns[self.columns[0]].ndim > 1:
            return _numbers(path, self.columns[0], columns[self.columns[0]])
        parts: list[NDArray[np.float64]] = []
        for name in self.columns:
            column = columns[name]
            if column.ndim != 1:
                raise ConfigError(
                    f"{path}: {name} is {list(column.shape)}, and there are other inputs",
                    f"@source.features=[{name}]",
                )
            if name in self.kinds:
                parts += [(column == kind).astype(np.float64) for kind in self.kinds[name]]
            elif column.dtype == object:
                raise ConfigError(f"{path}: {name} holds texts: expected numbers")
            else:
                parts.append(column.astype(np.float64))
        if not parts:
            raise ConfigError(f"{path}: {', '.join(self.columns)} hold nothing")
        return np.stack(parts, 1)


def _numbers(path: Path, name: str, array: Column) -> NDArray[np.float64] | NDArray[np.uint8]:
    if array.dtype == object:
        raise ConfigError(f"{path}: {name} holds texts: expected numbers")
    if array[0].size == 0:
        raise ConfigError(f"{path}: {name} is {list(array.shape)}: expected numbers for each row")
    return np.asarray(array) if array.dtype == np.uint8 else array.astype(np.float64)


def _is_known(y: Column) -> NDArray[np.bool_]:
    if y.dtype == object:
        return np.array([text is not None for text in y], dtype=bool)
    if y.dtype.kind == "f":
        return np.asarray(np.isfinite(y.reshape(len(y), -1)).all(1), dtype=bool)
    return np.ones(len(y), dtype=bool)


def _texts(path: Path, name: str, columns: Mapping[str, Column]) -> list[str | None]:
    """Return a column as texts; whole numbers without a decimal point."""
    column = columns[name]
    if column.ndim != 1:
        raise ConfigError(f"{path}: {name} is {list(column.shape)}: expected one entry for each row")
    return [text_of(value) for value in column.tolist()]


def text_of(value: object) -> str | None:
    """Return a label as a text; None if the label is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()
    return None if text.lower() in MISSING else text


def _check_there(path: Path, columns: Mapping[str, Column], role: str, names: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            raise ConfigError(
                f"@source.{role}={name}: {path} has {_named(columns)}{did_you_mean(name, columns)}",
                f"@source.{role}=NAME, one of these",
            )


def _named(columns: Mapping[str, Column]) -> str:
    return ", ".join(list(columns)[:10]) + (f" and {len(columns) - 10} more" if len(columns) > 10 else "")
