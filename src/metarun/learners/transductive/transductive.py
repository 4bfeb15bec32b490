"""The base class of learners that classify the query set as a whole."""

from __future__ import annotations

import torch
from torch import Tensor

from metarun.learners.baselines.transformed import Transformed
from metarun.learners.soundness import PADDED_QUERIES
from metarun.tasks import Tasks


class Transductive(Transformed):
    """A pretrained network, and a classifier whose `classify` uses all query embeddings of a task together.

    It is transductive for both values of `transductive`, which only concerns batch norms.
    """

    @property
    def is_transductive(self) -> bool:
        """True: a prediction depends on the other query examples."""
        return True

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: also padding of query sets."""
        return PADDED_QUERIES if tasks.query.mask is not None else super().apart(tasks)


def predicted(scores: Tensor) -> Tensor:
    """Return the class of the largest score as one-hot, [T, n, classes]."""
    return torch.zeros_like(scores).scatter_(2, scores.argmax(2, keepdim=True), 1.0)
