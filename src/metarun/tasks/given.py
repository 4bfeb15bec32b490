"""Checks of the values that a user's class returns: ambiguous values are refused with a one-line error."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.tasks.metrics import Loss, binary_cross_entropy, cross_entropy
from metarun.tasks.types import Examples, Split, Tasks, TaskSource, output_size, trains_on

_ROUNDING = 1e-5
_CLASSIFY: tuple[Loss, ...] = (cross_entropy, binary_cross_entropy)


def as_numbers(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return uint8 scaled to 0 … 1, and floats unscaled, in `dtype`."""
    return x.to(dtype).div_(255) if x.dtype == torch.uint8 else x.to(dtype)


def as_images(name: str, given: Any, expected: tuple[int, ...]) -> Tensor:
    """Return images as uint8, 255 = 1, or as floats from 0 to 1.

    Args:
        name: what the images are, for messages.
        given: a tensor, a numpy array, or nested lists.
        expected: the required shape.

    Raises:
        MetarunError: the shape differs, or the range of the numbers is ambiguous.
    """
    try:
        images = given if isinstance(given, Tensor) else torch.as_tensor(np.ascontiguousarray(given))
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists, or no numbers
        text = " ".join(str(error).split())[:120]
        raise MetarunError(
            f"{name} is not an array of numbers ({text}): expected the shape {expected}"
        ) from error
    if images.shape != expected:
        raise MetarunError(f"{name} has shape {tuple(images.shape)}, expected {expected}")
    if images.dtype == torch.bool:
        return images.float()
    try:
        low, high = (bound.item() for bound in images.aminmax())
    except RuntimeError as error:  # torch cannot compare some dtypes
        raise MetarunError(
            f"{name} is {_kind(images)} {tuple(images.shape)}: expected uint8 from 0 to 255, or floats from "
            f"0 to 1"
        ) from error
    description = f"{name} is {_kind(images)} {tuple(images.shape)} from {low:g} to {high:g}"
    if images.dtype == torch.uint8:
        if high == 1:
            raise MetarunError(
                f"{description}, but 255 stands for 1: multiply by 255, or give floats from 0 to 1"
            )
        return images
    # Rounding errors are accepted; NaN and infinities are not.
    if not (images.is_floating_point() and low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise MetarunError(f"{description}: expected uint8 from 0 to 255, or floats from 0 to 1")
    return images


def tidy(source: TaskSource, batch: Tasks) -> Tasks:
    """Return a batch whose labels are int64, as torch's losses require.

    Raises:
        MetarunError: class labels are not whole numbers.
    """
    support, query = (_tidy(source, examples) for examples in (batch.support, batch.query))
    return (
        batch
        if support is batch.support and query is batch.query
        else replace(batch, support=support, query=query)
    )


def _tidy(source: TaskSource, examples: Examples) -> Examples:
    y = examples.y
    is_free = source.loss not in _CLASSIFY or _are_shares(y)
    if y.dtype == torch.int64 or (y.is_floating_point() and is_free):
        return examples
    labels = y.long()
    if y.is_floating_point() and not torch.equal(labels.to(y.dtype), y):
        raise MetarunError(
            f"{type(source).__name__}.batch: labels are {_kind(y)} and not whole numbers: expected classes "
            f"0, 1, …"
        )
    return replace(examples, y=labels)


def check_batch(source: TaskSource, split: Split, batch: Tasks, count: int, *, values: bool) -> None:
    """Raise MetarunError if a source's tasks do not have the form that losses and models require.

    Args:
        source: the source of the tasks.
        split: the split of the tasks.
        batch: the tasks.
        count: the number of tasks requested.
        values: whether to check the values too, which waits for the GPU.
    """
    if batch.ways is not None and batch.ways.shape != (count,):
        raise MetarunError(
            f"{type(source).__name__}.batch: {split}: ways {tuple(batch.ways.shape)}, expected [{count}]"
        )
    may_be_of_mixed = split == "train" and trains_on(source) == "images"
    for kind, examples in (("support", batch.support), ("query", batch.query)):
        name = f"{type(source).__name__}.batch: {split} {kind}"
        x, y = examples.x, examples.y
        form = f"x {tuple(x.shape)} {_kind(x)} and y {tuple(y.shape)} {_kind(y)}"
        # A mini-batch of all classes has no support set.
        may_be_empty = kind == "support" and split == "train" and trains_on(source) == "images"
        is_empty = x.dim() >= 2 and x.shape[1] == 0
        if x.dim() < 2 or y.shape[:2] != x.shape[:2] or len(x) != count or (is_empty and not may_be_empty):
            raise MetarunError(
                f"{name}: {count} tasks have {form}, expected x [{count}, n, …] and y [{count}, n, …]"
            )
        if tuple(x.shape[2:]) != tuple(source.input_shape):
            raise MetarunError(f"{name}: {form}, but input_shape is {tuple(source.input_shape)}")
        are_shares = may_be_of_mixed and kind == "query" and _are_shares(y)
        if source.loss in _CLASSIFY and y.dim() != 2 and not are_shares:
            raise MetarunError(f"{name}: {form}, expected labels [{count}, n], one class per example")
        mask = examples.mask
        if mask is not None and (mask.shape != x.shape[:2] or mask.dtype != torch.bool):
            raise MetarunError(
                f"{name}: {form} have a mask {tuple(mask.shape)} {_kind(mask)}, expected [{count}, n] bool"
            )
        if not values or is_empty or are_shares:
            continue
        if not (x.isfinite().all() and y.isfinite().all()):
            raise MetarunError(f"{name}: {form} contain NaN or infinite numbers")
        if batch.ways is not None and y.dim() == 2 and bool((y.amax(1) >= batch.ways).any()):
            raise MetarunError(
                f"{name}: labels up to {int(y.max())}, expected less than ways {batch.ways.tolist()}"
            )
        classes = output_size(source, split) if source.loss is cross_entropy else None
        if classes is not None and not (int(y.min()) >= 0 and int(y.max()) < classes):
            raise MetarunError(
                f"{name}: labels from {int(y.min())} to {int(y.max())}, expected 0 to {classes - 1}"
            )


def _are_shares(y: Tensor) -> bool:
    """Return whether targets are shares of the classes, [T, n, classes], as mixed images have."""
    return y.is_floating_point() and y.dim() == 3 and y.shape[2] > 1


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
