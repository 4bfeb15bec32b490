"""A source whose test tasks come from another source, to test on another domain."""

from __future__ import annotations

from typing import Any

import torch

from metarun.errors import ConfigError
from metarun.tasks.description import described, problems_of
from metarun.tasks.images.adapted import Adapted
from metarun.tasks.types import SPLITS, Split, Tasks, TaskSource, targets_of

# Methods of a source that take a split.
_BY_SPLIT = ("names", "classes", "images", "count")


class TestedElsewhere:
    """Training and validation tasks of one source, test tasks of another source.

    Args:
        source: the source of training and validation tasks.
        other: the source of test tasks; its images are resized to the shape of `source`.
        label: the name of `other` for users.

    Raises:
        ConfigError: the tasks of `other` have other targets or another number of outputs.
    """

    __test__ = False  # pytest would take the class for a test

    def __init__(self, source: TaskSource, other: TaskSource, label: str) -> None:
        if targets_of(source) != targets_of(other):
            raise ConfigError(
                f"@source.test={label}: its targets are {targets_of(other)}, and those of the training are "
                f"{targets_of(source)}"
            )
        if None not in (source.output_size, other.output_size) and source.output_size != other.output_size:
            raise ConfigError(
                f"@source.test={label}: its tasks have {other.output_size} outputs, and those of the "
                f"training {source.output_size}"
            )
        shape = tuple(source.input_shape)
        self.label, self.fitted = label, ""
        if tuple(other.input_shape) != shape:
            other = Adapted(other, shape)
            self.fitted = other.in_words()
        self._source, self._other = source, other
        self.input_shape, self.output_size = shape, source.output_size
        self.loss, self.metrics = source.loss, source.metrics

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of `source`; methods that take a split ask `other` about the test split."""
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in _BY_SPLIT:
            return getattr(self._source, name)
        if not hasattr(self._other, name):
            raise AttributeError(name)

        def of_split(split: Split) -> Any:
            return getattr(self._other if split == "test" else self._source, name)(split)

        return of_split

    def prepare(self, device: torch.device) -> None:
        """Read or download the data of both sources, and keep it on the device."""
        self._source.prepare(device)
        self._other.prepare(device)

    def batch(self, split: Split, first_episode: int, count: int) -> Tasks:
        """Return episodes of `source`, or in the test split of `other`."""
        return (self._other if split == SPLITS[2] else self._source).batch(split, first_episode, count)

    def verify(self) -> list[str]:
        """Return the problems of both sources' files."""
        return [*problems_of("", self._source), *problems_of(f"{self.label}: ", self._other)]

    def described(self) -> dict[str, Any]:
        """Return a description of the loaded data, as plain values for a run's manifest."""
        test = {"name": self.label, "fitted": self.fitted, **described(self._other)}
        return {**described(self._source), "test": test}

    def elsewhere(self) -> dict[str, str]:
        """Return the name of the test tasks' source and how its images are fitted, for results."""
        return {"name": self.label, "fitted": self.fitted}
