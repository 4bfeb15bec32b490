"""Mean scores over meta-steps, and tasks per second."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Mean scores over meta-steps, copied from the device only in `read`.

    Args:
        meta_batch: number of tasks of a meta-step.
    """

    def __init__(self, meta_batch: int) -> None:
        self._meta_batch = meta_batch
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._since = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums since the last reading, so that a resumed run writes the same means."""
        return {"sums": self._sums, "steps": self._steps, "seconds": time.monotonic() - self._since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's sums."""
        self._sums, self._steps = state["sums"], state["steps"]
        self._since = time.monotonic() - state["seconds"]

    @property
    def is_empty(self) -> bool:
        """Whether no meta-step was added since the last reading."""
        return self._steps == 0

    def add(self, means: Mapping[str, Tensor]) -> None:
        """Add the mean scores of one meta-step."""
        for name, mean in means.items():
            self._sums[name] = mean + self._sums[name].to(mean.device) if name in self._sums else mean
        self._steps += 1

    def skip(self, seconds: float) -> None:
        """Leave out of the rate the seconds spent on something else."""
        self._since += seconds

    def read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return the mean scores, then tasks per second and seconds; reset the sums."""
        names = list(self._sums)
        # One copy from the device for all.
        sums = torch.stack([self._sums[name] for name in names]).tolist() if names else []
        means = {name: total / self._steps for name, total in zip(names, sums, strict=True)}
        now = time.monotonic()
        seconds = now - self._since
        timing = {"tasks_per_second": self._steps * self._meta_batch / seconds, "seconds": seconds}
        self._sums, self._steps, self._since = {}, 0, now
        return means, timing
