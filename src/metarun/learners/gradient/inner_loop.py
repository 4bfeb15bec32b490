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
        test_steps: steps while validating and testing; as many as `steps` where null.
        batch: support examples of one training step; all of them where null.
        test_batch: the same while validating and testing.
    """

    steps: Steps
    test_steps: Steps | None = None
    batch: Count | None = None
    test_batch: Count | None = None

    def count(self, training: bool) -> int:
        """Return the number of steps."""
        return self.steps if training or self.test_steps is None else self.test_steps

    def minibatch(self, support: Examples, step: int, training: bool) -> Examples:
        """Return the support examples of one step: the next ones in the episode's own (random) order.

        Steps cycle through the support set, so no example repeats within a cycle, as in Reptile's code;
        there each cycle has a new order, here the same.
        """
        size = self.batch if training else self.test_batch
        n = len(support)
        if size is None or size % n == 0:  # whole cycles: the mean over them is the mean over the set
            return support
        return support.take(torch.arange(step * size, (step + 1) * size, device=support.x.device) % n)
