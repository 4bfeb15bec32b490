"""The contract of a learner, which maps a support set to a predictor."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from metarun.figures import Figure
from metarun.tasks import Predictions, Scores, Targets, Tasks, TrainsOn

Adapted = TypeVar("Adapted")


class Learner(nn.Module, ABC, Generic[Adapted]):
    """A module with meta-parameters that adapts to T tasks at once.

    Its constructor's arguments declare what it needs: those named `model`, `make_model`, `rule`, `loop`,
    `seed`, `seeding`, `input_shape`, `output_size`, `training_output_size` or `targets` are passed to it, and
    keys of groups that nothing needs are refused.

    Attributes:
        needs: what its constructor is given; None: what its arguments name.
        thread_safe: whether several threads may call it at once, on different tasks; else it has one worker.
        learns: whether there is anything to train; else it is tested at once.
        trains_on: what its training tasks are; it is validated and tested on episodes.
        for_tests: arguments of its constructor that the training does not use: a test may change them.
        targets: what it can learn to predict, as `TaskSource.targets` says it; None: anything.
        reads_unlabelled: whether it may learn from examples without a label.
        can_rematerialise: whether the backward pass can recompute its steps instead of keeping them.
        rematerialise: whether it does.
    """

    needs: ClassVar[frozenset[str] | None] = None
    learns: ClassVar[bool] = True
    trains_on: ClassVar[TrainsOn] = "episodes"
    for_tests: ClassVar[frozenset[str]] = frozenset()
    targets: ClassVar[Targets | None] = None
    can_rematerialise: ClassVar[bool] = False
    reads_unlabelled: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = False
    rematerialise: bool = False

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Put the learner into evaluation mode, and back into its own afterwards."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:
        """Return the number of outputs of its model, given that of the tasks; None: no head."""
        return output_size

    @abstractmethod
    def adapt(self, tasks: Tasks) -> Adapted:
        """Return the learner adapted to the support sets of T tasks; the query targets are hidden.

        It adapts as in the outer loop in training mode, else as in a test.
        """

    @abstractmethod
    def predict(self, adapted: Adapted, x: Tensor) -> Predictions:
        """Map x [T, n, …] to predictions: a tensor [T, n, out], or a distribution."""

    def scores(self, adapted: Adapted, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of the adapted learner on each task's query set, [T].

        A pooled metric, [T, parts], is for tests alone.
        """
        return tasks.score(partial(self.predict, adapted), pooled=not self.training)

    def curve(self, tasks: Tasks) -> Iterator[Scores]:
        """Yield the query scores after adaptation, without a graph."""
        with torch.no_grad():
            scores = self.scores(self.adapt(tasks.without_answers()), tasks)
        yield scores

    def changes(self, adapted: Adapted) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return what each task adds to buffers that follow the training, [T, …] by name: running statistics.

        They change by the mean over the tasks of a meta-batch; nothing else may write them.
        """
        return {}

    @property
    def is_transductive(self) -> bool | None:
        """Whether a test prediction depends on the other query examples; None where there is no such choice.

        Batch norms make it depend on them, if they normalise a query set as a whole.
        """
        return None

    @property
    def keeps_state(self) -> bool:
        """Whether it has parameters that change from task to task and are not meta-parameters."""
        return False

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be compiled to one graph; empty where it can."""
        return ""

    @property
    def is_known(self) -> bool:
        """Whether it needs no check to work for many tasks at once, with derivatives of every order."""
        return False

    def apart(self, tasks: Tasks) -> str:  # noqa: ARG002
        """Say why tasks of different sizes must be computed one after another; empty where they need not be.

        A task alone has no padding, and its classes are all there are.
        """
        return ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError where a few real tasks show that this learner would mix tasks."""

    def check_second_derivatives(self, tasks: Tasks) -> None:
        """Raise ConfigError where real tasks show that torch's second derivatives of the model are wrong."""

    def learned(self, tasks: Tasks) -> list[Figure]:  # noqa: ARG002  (for those that have something to show)
        """Return figures of what it has learned; tasks: some of the test, to show it on."""
        return []

    def trained_names(self) -> set[str]:
        """Return the names of the meta-parameters."""
        return {name for name, p in self.named_parameters() if p.requires_grad}


class IterativeLearner(Learner[Adapted]):
    """A learner that adapts to a support set step by step.

    Attributes:
        axis: what the steps are, as a heading of a table.
    """

    axis: ClassVar[str] = "adaptation steps"

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of steps in the current mode (training or test)."""

    @abstractmethod
    def trajectory(self, tasks: Tasks) -> Iterator[Adapted]:
        """Yield the adapted learner before the first step and after each step."""

    def adapt(self, tasks: Tasks) -> Adapted:
        """Return the adapted learner after the last step."""
        steps = self.trajectory(tasks)
        adapted = next(steps)
        for adapted in steps:  # noqa: B007  (only the last is kept)
            pass
        return adapted

    def curve(self, tasks: Tasks) -> Iterator[Scores]:
        """Yield the query scores before adaptation and after each step, without a graph."""
        steps = self.trajectory(tasks.without_answers())
        while True:
            with torch.no_grad():
                adapted = next(steps, None)
                if adapted is None:
                    return
                scores = self.scores(adapted, tasks)
            yield scores
