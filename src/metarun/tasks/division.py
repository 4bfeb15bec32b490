"""How classes, or tasks, are divided between training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from metarun.errors import ConfigError
from metarun.tasks.types import SPLITS, Split

Share = Annotated[float, Field(ge=0, le=1)]
Shares = tuple[Share, Share, Share]

NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
"""The names that users may type for the splits."""


def check_shares(shares: Shares) -> None:
    """Raise ConfigError if the shares do not add up to 1."""
    if abs(sum(shares) - 1) > 1e-6:
        raise ConfigError(
            f"@source.shares={list(shares)} have the sum {sum(shares):g}", "@source.shares=[0.6,0.2,0.2]"
        )


def divided(
    count: int, own: Sequence[Split] | None, shares: Shares, generator: torch.Generator
) -> list[Split]:
    """Return the split of each class: as named in the data, or drawn at random in these shares.

    If the data names no validation classes, validation takes its share of the training classes.

    Args:
        count: number of classes.
        own: the split that the data names for each class; None: the data names no splits.
        shares: for train, validation and test.
        generator: draws the order.
    """
    if own is not None and ("validation" in own or "train" not in own or shares[1] == 0):
        return list(own)
    free = [c for c in range(count) if own is None or own[c] == "train"]
    wanted = shares if own is None else (shares[0], shares[1], 0.0)
    result: list[Split] = ["test"] * count
    order = torch.randperm(len(free), generator=generator).tolist()
    for split, number in zip(SPLITS, _whole_shares(len(free), wanted), strict=True):
        for place in order[:number]:
            result[free[place]] = split
        del order[:number]
    return result


def _whole_shares(total: int, shares: Shares) -> list[int]:
    """Return counts close to total · share with the sum `total`; a share above 0 gets 1 or more if it can."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(count) for count in exact]
    by_rest = sorted(range(len(counts)), key=lambda i: counts[i] - exact[i])
    for i in by_rest[: total - sum(counts)]:
        counts[i] += 1
    for i, share in enumerate(shares):
        if share > 0 and counts[i] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[i] = 1
    return counts


def divided_rows(groups: Sequence[str], shares: Shares, generator: torch.Generator) -> list[Split]:
    """Return the split of each row; the rows of every group are divided in these shares.

    Args:
        groups: the group of each row.
        shares: for train, validation and test.
        generator: draws the order of each group's rows.
    """
    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    result: list[Split] = ["test"] * len(groups)
    for group in sorted(rows):
        order = torch.randperm(len(rows[group]), generator=generator).tolist()
        first = 0
        for split, number in zip(SPLITS, _whole_shares(len(order), shares), strict=True):
            for place in order[first : first + number]:
                result[rows[group][place]] = split
            first += number
    return result


_NAMED = 3


def some(names: Sequence[str]) -> str:
    """Return a text with the first names and the number of the others."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
