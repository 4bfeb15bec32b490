"""The contract of a learner: how a support set becomes a predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from metarun.tasks import Predictions, Scores, Tasks

Adapted = TypeVar("Adapted")


class Learner(nn.Module, ABC, Generic[Adapted]):
    """Something with meta-parameters that adapts to T tasks at once.

    The arguments of its constructor say what it needs: one called `model`, `make_model`, `rule`, `loop`,
    `seed`, `seeding`, `input_shape` or `output_size` is given it, and keys of groups that nothing needs are
    refused.

    Attributes:
        can_rematerialise: whether its steps can be computed again in the backward pass instead of kept.
        rematerialise: whether they are.
    """

    can_rematerialise: ClassVar[bool] = False
    rematerialise: bool = False

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:
        """Return how many outputs its model is to have, for tasks that want so many; None: no head."""
        return output_size

    @abstractmethod
    def adapt(self, tasks: Tasks) -> Adapted:
        """Return what the support sets of T tasks have taught it; the targets of the query sets are hidden.

        In training mode as the outer loop trains it, else as it is tested.
        """

    @abstractmethod
    def predict(self, adapted: Adapted, x: Tensor) -> Predictions:
        """Map x [T, n, …] to predictions: a tensor [T, n, out], or a distribution."""

    def scores(self, adapted: Adapted, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of what was adapted on each task's query set, [T]."""
        return tasks.score(partial(self.predict, adapted))

    def curve(self, tasks: Tasks) -> Iterator[Scores]:
        """Yield the query scores after adaptation; nothing can be differentiated."""
        with torch.no_grad():
            scores = self.scores(self.adapt(tasks.without_answers()), tasks)
        yield scores

    @property
    def keeps_state(self) -> bool:
        """Whether it has parameters that are no meta-parameters and change from task to task."""
        return False

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be one compiled graph; empty where it may."""
        return ""

    @property
    def is_known(self) -> bool:
        """Whether it is known to work for many tasks at once, and in every order of derivatives, untried."""
        return False

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError where a few real tasks show that this learner would mix tasks up."""

    def check_second_derivatives(self, tasks: Tasks) -> None:
        """Raise ConfigError where real tasks show that torch's second derivatives of the model are wrong."""

    def trained_names(self) -> set[str]:
        """Return the names of the meta-parameters."""
        return {name for name, p in self.named_parameters() if p.requires_grad}


class IterativeLearner(Learner[Adapted]):
    """A learner that gets better step by step on a support set.

    Attributes:
        axis: what a step is, as the heading of a table has it.
    """

    axis: ClassVar[str] = "adaptation steps"

    @property
    @abstractmethod
    def steps(self) -> int:
        """How many steps it takes, in the mode that it is in."""

    @abstractmethod
    def trajectory(self, tasks: Tasks) -> Iterator[Adapted]:
        """Yield the learner before adaptation and after each of its steps."""

    def adapt(self, tasks: Tasks) -> Adapted:
        """Return the learner after its last step."""
        steps = self.trajectory(tasks)
        adapted = next(steps)
        for adapted in steps:  # noqa: B007  (only the last is kept)
            pass
        return adapted

    def curve(self, tasks: Tasks) -> Iterator[Scores]:
        """Yield the query scores before adaptation and after each step; nothing can be differentiated."""
        steps = self.trajectory(tasks.without_answers())
        while True:
            with torch.no_grad():
                adapted = next(steps, None)
                if adapted is None:
                    return
                scores = self.scores(adapted, tasks)
            yield scores
