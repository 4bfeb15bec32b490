"""Time series in the format `.ts`, in which the archives of UCR and UEA circulate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarun.errors import ConfigError
from metarun.tasks.arrays.columns import MISSING, Column, check_fits

_COPIES = 6  # of the numbers in memory while they are scaled


def read_series(path: Path) -> dict[str, Column]:
    """Return the series of a file as x, [n, channels, length], and their labels or targets as y.

    Shorter series end in NaN, which count as missing values. Each line has one series: its channels,
    separated by colons, then its label (https://www.sktime.net/en/latest/api_reference/file_specifications/ts.html).

    Raises:
        ConfigError: the `@data` line is missing, series have time stamps or different numbers of channels,
            or an entry is not a number.
    """
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    starts = next((i for i, line in enumerate(lines) if line.strip().lower() == "@data"), None)
    if starts is None:
        raise ConfigError(f"{path}: there is no line @data, after which the series are")
    header = dict(_said(line) for line in lines[:starts] if line.strip().startswith("@"))
    if header.get("timestamps", "").lower() == "true":
        raise ConfigError(f"{path}: its series have time stamps: expected values at equal steps")
    has_target = header.get("targetlabel", "").lower().startswith("true")
    if header.get("classlabel", "true").lower().startswith("false") and not has_target:
        raise ConfigError(f"{path}: its series have no labels (@classLabel false)")
    check_fits(path, 20 * path.stat().st_size)  # Python strings and lists take about 20 times the file
    series: list[list[list[float]]] = []
    labels: list[str] = []
    for number, line in enumerate(lines[starts + 1 :], starts + 2):
        if not line.strip() or line.startswith("#"):
            continue
        *channels, label = line.strip().split(":")
        if not channels or (series and len(channels) != len(series[0])):
            expected = len(series[0]) if series else "one or more"
            raise ConfigError(f"{path}, line {number}: {len(channels)} channels, expected {expected}")
        if not all(channel.strip() for channel in channels):
            raise ConfigError(f"{path}, line {number}: a channel without values")
        try:
            series.append([[_number(text) for text in channel.split(",")] for channel in channels])
        except ValueError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from error
        labels.append(label.strip())
    if not series:
        raise ConfigError(f"{path} has no series")
    y: Column = np.array([None if text.lower() in MISSING else text for text in labels], dtype=object)
    if has_target:
        y = np.array([_number(text) for text in labels])
    longest = max(len(channel) for channels in series for channel in channels)
    check_fits(path, 8 * _COPIES * len(series) * len(series[0]) * longest)
    return {"x": _padded(series, longest), "y": y}


def _padded(series: list[list[list[float]]], longest: int) -> NDArray[np.float64]:
    """Return series [n][channels][length] as an array, with NaN after the end of shorter ones."""
    x = np.full((len(series), len(series[0]), longest), np.nan)
    for i, channels in enumerate(series):
        for c, channel in enumerate(channels):
            x[i, c, : len(channel)] = channel
    return x


def _said(line: str) -> tuple[str, str]:
    name, _, value = line.strip()[1:].partition(" ")
    return name.lower(), value.strip()


def _number(text: str) -> float:
    return np.nan if text.strip().lower() in MISSING else float(text)
