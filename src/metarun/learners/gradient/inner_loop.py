"""The settings of an inner loop that are the same for every update rule."""

from __future__ import annotations

import torch
from pydantic import BaseModel

from metarun.fields import Count, Steps
from metarun.tasks import Examples


class InnerLoop(BaseModel, extra="forbid", frozen=True):
    """The number of steps, and the support examples of a step.

    Attributes:
        steps: steps while training.
        test_steps: steps while validating and testing; null: `steps`.
        batch: support examples of one step while training; null: all.
        test_batch: support examples of one step while validating and testing; null: all.
    """

    steps: Steps
    test_steps: Steps | None = None
    batch: Count | None = None
    test_batch: Count | None = None

    def count(self, training: bool) -> int:
        """Return the number of steps."""
        return self.steps if training or self.test_steps is None else self.test_steps

    def minibatch(self, support: Examples, step: int, training: bool) -> Examples:
        """Return the support examples of one step: the next mini-batch in the episode's (random) order.

        Steps cycle through the support set, so no example repeats within a cycle, as in Reptile's code. There
        each cycle has a new order; here all cycles have the same order.
        """
        size = self.batch if training else self.test_batch
        n = len(support)
        if size is None or size % n == 0:  # whole cycles have the mean loss of the set
            return support
        return support.take(torch.arange(step * size, (step + 1) * size, device=support.x.device) % n)
