"""The scores of each test task, kept beside the results so that tests can be compared task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metarun.errors import MetarunError
from metarun.runs.arrays import read_arrays, write_arrays

_KINDS = {"names": "U", "scores": "f", "numbers": "i", "sketch": "f"}


@dataclass(frozen=True)
class TaskScores:
    """Scores of tasks.

    Attributes:
        names: of the scores: the loss, then the metrics.
        scores: [names, steps, tasks]; the mean over tasks is the score of the results, also of a pooled one.
        numbers: of the steps, as in the results' curve.
        sketch: float64 [4, tasks]: which tasks they are; see `tasks.sketch`.
    """

    names: tuple[str, ...]
    scores: Tensor
    numbers: tuple[int, ...]
    sketch: Tensor

    def of(self, name: str, number: int | None = None) -> Tensor:
        """Return one value per task, float64 [tasks], after step `number`; None: the last.

        Raises:
            MetarunError: there is no such score or step.
        """
        if name not in self.names:
            raise MetarunError(f"{name}: there is no such score; choose from {', '.join(self.names)}")
        if number is not None and number not in self.numbers:
            raise MetarunError(f"{number}: there is no such step; choose from {_some(self.numbers)}")
        step = -1 if number is None else self.numbers.index(number)
        return self.scores[self.names.index(name), step].double()

    def write(self, path: Path) -> None:
        """Write them atomically."""
        write_arrays(
            path,
            {
                "names": np.array(self.names),
                "scores": self.scores.numpy(),
                "numbers": np.array(self.numbers),
                "sketch": self.sketch.numpy(),
            },
        )

    @classmethod
    def read(cls, path: Path) -> TaskScores | None:
        """Return what a file holds, or None if there is no such file.

        Raises:
            MetarunError: it is damaged.
        """
        arrays = read_arrays(path)
        if arrays is None:
            return None
        shapes = {name: array.shape for name, array in arrays.items()}
        kinds = {name: array.dtype.kind for name, array in arrays.items()}
        if kinds == _KINDS and len(shapes["scores"]) == 3:
            names, steps, tasks = shapes["scores"]
            expected = {"names": (names,), "numbers": (steps,), "sketch": (4, tasks)}
            if {name: shape for name, shape in shapes.items() if name != "scores"} == expected and steps:
                scores, sketch = (torch.from_numpy(arrays[name]) for name in ("scores", "sketch"))
                named, numbers = arrays["names"].tolist(), arrays["numbers"].tolist()
                return cls(tuple(named), scores, tuple(numbers), sketch.double())
        raise MetarunError(f"{path} does not hold the scores of tasks: delete it, and test again")


def _some(numbers: Sequence[int]) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown if len(shown) <= 12 else [*shown[:6], "…", *shown[-3:]])
