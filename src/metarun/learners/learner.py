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

    The constructor's arguments declare what the learner needs. Arguments named `model`, `make_model`, `rule`,
    `loop`, `seed`, `seeding`, `input_shape`, `output_size`, `training_output_size` or `targets` are passed by
    the experiment; config keys of groups that the learner does not need are refused.

    Attributes:
        needs: names of the arguments to pass; None: those that the constructor has.
        thread_safe: whether several threads may call the learner at once, on different tasks; if not, there
            is one worker.
        learns: whether the learner has meta-parameters to train; if not, it is only tested.
        trains_on: the kind of training tasks; validation and test always use episodes.
        for_tests: constructor arguments that training does not use, so that a test may change them.
        targets: the kind of targets that it can predict, as in `TaskSource.targets`; None: all kinds.
        reads_unlabelled: whether the learner may learn from examples without a label.
        can_rematerialise: whether the backward pass can recompute steps instead of keeping them.
        rematerialise: whether the backward pass recomputes steps.
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
        """Put the learner into evaluation mode, and restore its mode afterwards."""
        was_training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(was_training)

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:
        """Return the number of outputs of the model, given the outputs of the tasks; None: no head."""
        return output_size

    @abstractmethod
    def adapt(self, tasks: Tasks) -> Adapted:
        """Return the learner adapted to the support sets of T tasks; the query targets are hidden.

        In training mode it adapts as in the outer loop, else as in a test.
        """

    @abstractmethod
    def predict(self, adapted: Adapted, x: Tensor) -> Predictions:
        """Map x [T, n, …] to predictions: a tensor [T, n, out], or a distribution."""

    def scores(self, adapted: Adapted, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of the adapted learner on each task's query set, [T].

        Pooled metrics, [T, parts], are only for tests.
        """
        return tasks.score(partial(self.predict, adapted), pooled=not self.training)

    def curve(self, tasks: Tasks) -> Iterator[Scores]:
        """Yield the query scores after adaptation, without a graph."""
        with torch.no_grad():
            scores = self.scores(self.adapt(tasks.without_answers()), tasks)
        yield scores

    def changes(self, adapted: Adapted) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return each task's changes of running statistics and other buffers, [T, …] by name.

        The outer loop adds the mean over the tasks of a meta-batch; nothing else may write these buffers.
        """
        return {}

    @property
    def is_transductive(self) -> bool | None:
        """Whether a test prediction depends on the other query examples; None if this is not a choice.

        It does, for example, if batch norms normalise a query set as a whole.
        """
        return None

    @property
    def keeps_state(self) -> bool:
        """Whether the learner has parameters, other than meta-parameters, that change from task to task."""
        return False

    @property
    def not_to_compile(self) -> str:
        """The reason why the meta-gradient cannot be compiled to one graph; empty if it can."""
        return ""

    @property
    def has_kernels(self) -> bool:
        """Whether metarun's own kernels compute some of the model's layers on a CPU."""
        return False

    def compute_plainly(self, *, plainly: bool) -> None:
        """Compute everything by the model's own forward pass and autograd alone, or as fast as possible."""

    @property
    def is_known(self) -> bool:
        """Whether the model needs no check of many tasks at once and of second derivatives."""
        return False

    def apart(self, tasks: Tasks) -> str:  # noqa: ARG002
        """Return why tasks of different sizes must be computed one by one; empty if they can be batched.

        A single task has no padding and no absent classes.
        """
        return ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if a few real tasks show that this learner would mix tasks."""

    def check_second_derivatives(self, tasks: Tasks) -> None:
        """Raise ConfigError if real tasks show that torch's second derivatives of the model are wrong."""

    def learned(self, tasks: Tasks) -> list[Figure]:  # noqa: ARG002  (for those that have something to show)
        """Return figures of what the learner has learned.

        Args:
            tasks: some test tasks to show in the figures.
        """
        return []

    def trained_names(self) -> set[str]:
        """Return the names of the meta-parameters."""
        return {name for name, p in self.named_parameters() if p.requires_grad}


class IterativeLearner(Learner[Adapted]):
    """A learner that adapts to a support set step by step.

    Attributes:
        axis: the name of the steps, as a heading of a table.
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
