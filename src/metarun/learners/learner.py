"""The contract of a learner: how a support set becomes a predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from metarun.tasks import Examples, Loss, TaskBatch

Adapted = TypeVar("Adapted")

Graph = Literal["exact", "first_order", "none"]
"""What adaptation leaves for the outer loop to differentiate: everything, everything but the inner
gradients' own derivatives, or nothing."""

Scores = dict[str, Tensor]
"""The loss and the metrics of each task, by name: [T]."""


class Learner(nn.Module, ABC, Generic[Adapted]):
    """Something with meta-parameters that adapts to T tasks at once.

    Args:
        loss: of predictions and targets, one value a task.
        metrics: more of the same, for people to read.

    Attributes:
        rematerialise: whether the steps of `adapt` are computed again in the backward pass instead of kept;
            a learner without steps has nothing to gain from it.
    """

    def __init__(self, loss: Loss, metrics: Mapping[str, Loss]) -> None:
        super().__init__()
        self.rematerialise = False
        self.loss = loss
        self.metrics = dict(metrics)

    @property
    def is_known(self) -> bool:
        """Whether it is known to work for many tasks at once, and in every order of derivatives, untried."""
        return False

    def check(self, tasks: TaskBatch) -> None:
        """Raise ConfigError where a few real tasks show that this learner would mix tasks up."""

    def check_second_derivatives(self, tasks: TaskBatch) -> None:
        """Raise ConfigError where real tasks show that torch's second derivatives of the model are wrong."""

    @abstractmethod
    def trajectory(self, support: Examples, graph: Graph) -> Iterator[Adapted]:
        """Yield the learner before adaptation and after each of its steps.

        In training mode the steps are those of training, else those of testing.
        """

    @abstractmethod
    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Map x [T, n, …] to predictions [T, n, out]."""

    def adapt(self, support: Examples, graph: Graph = "exact") -> Adapted:
        """Return the learner after its last step on the support sets of T tasks."""
        steps = self.trajectory(support, graph)
        adapted = next(steps)
        for adapted in steps:  # noqa: B007  (only the last is kept)
            pass
        return adapted

    def scores(self, adapted: Adapted, query: Examples) -> Scores:
        """Return the loss and the metrics of each task, [T]."""
        predictions = self.predict(adapted, query.x)
        scores = {"loss": self.loss(predictions, query.y)}
        for name, metric in self.metrics.items():
            scores[name] = metric(predictions.detach(), query.y)
        return scores

    def curve(self, batch: TaskBatch) -> Iterator[Scores]:
        """Yield the query scores before adaptation and after each step; nothing can be differentiated."""
        for adapted in self.trajectory(batch.support, "none"):
            with torch.no_grad():
                scores = self.scores(adapted, batch.query)
            yield scores
