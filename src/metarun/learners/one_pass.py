"""Learners that adapt without steps: one forward pass over the support set makes a predictor."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.figures import Figure
from metarun.learners.embedding import (
    Pass,
    TaskNorm,
    current,
    passing,
    running_changes,
    with_task_norms,
)
from metarun.learners.gradient.batched import batched_forward, kernels, recording
from metarun.learners.learner import Learner
from metarun.learners.seen import embedding_figure
from metarun.learners.soundness import PADDED_NORMS, check_forward, check_layers
from metarun.models.dropblock import dropping
from metarun.tasks import Predictions, Tasks


@dataclass(frozen=True)
class Embedded:
    """A learner that has embedded the support sets of T tasks.

    Attributes:
        support_x: inputs of the support set.
        predictor: the result of `learn`, which `answer` predicts with.
        query_x: query inputs that were embedded together with the support set, or None.
        features: embeddings of support and query set, [T, n + m, features], or None.
        predictions: predictions for `query_x`; None: `answer` has not been called yet.
        changes: each task's changes of running statistics; see `Learner.changes`.
    """

    support_x: Tensor
    predictor: Any
    query_x: Tensor | None = None
    features: Tensor | None = None
    predictions: Predictions | None = None
    changes: Mapping[str, Tensor] = field(default_factory=dict)


class OnePassLearner(Learner[Embedded]):
    """Makes a predictor from the embedded support set, without adaptation steps.

    In training, the support and the query set of a task share their batch statistics, as in ProtoNet's code.
    Running statistics change by torch's rule, averaged over the tasks of a meta-batch.

    Args:
        model: the network that embeds inputs, without a head.
        transductive: True: at test, normalise a task by its own support and query set, as in training; False:
            by the running statistics, so that query examples do not depend on one another.
    """

    thread_safe: ClassVar[bool] = True
    # Whether `answer` is called in the pass that embeds: its networks may have batch norms, too.
    answers_in_pass: ClassVar[bool] = True

    def __init__(self, *, model: nn.Module, transductive: bool = False) -> None:
        super().__init__()
        check_layers(model, may_keep_statistics=True)
        self.transductive = transductive
        self._batched = batched_forward(model)
        self.model = with_task_norms(model)

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:  # noqa: ARG003
        """Return None: the model has no head."""
        return None

    @abstractmethod
    def learn(self, features: Tensor, tasks: Tasks) -> Any:
        """Make a predictor from the embedded support sets, [T, n, features]; query targets are hidden."""

    @abstractmethod
    def answer(self, predictor: Any, features: Tensor) -> Predictions:
        """Map embeddings [T, n, features] to predictions."""

    def embed(self, x: Tensor) -> Tensor:
        """Map the examples of all tasks, x [T, n, …], to [T, n, features], in one call of the network."""
        if self._by_kernels(x):
            return self._embedded_by_kernels(x)
        features: Tensor = self.model(x.flatten(0, 1))
        return features.view(*x.shape[:2], math.prod(features.shape[1:]))

    def _by_kernels(self, x: Tensor) -> bool:
        """Return whether metarun's own kernels take these examples: they use the statistics of a task."""
        if not self.has_kernels or not kernels.takes(x):
            return False
        norms = [module for module in self.model.modules() if isinstance(module, TaskNorm)]
        return current().batch_statistics and not (self.training and any(norm.frozen for norm in norms))

    def _embedded_by_kernels(self, x: Tensor) -> Tensor:
        assert self._batched is not None
        now, tasks = current(), len(x)
        norms = {f"{name}.": module for name, module in self.model.named_modules()}

        def record(name: str, mean: Tensor, variance: Tensor) -> None:
            norm = norms[name]
            assert isinstance(norm, TaskNorm)
            if now.seen is not None:
                now.seen[norm] = mean, variance

        parameters = {n: kernels.expand(p, tasks) for n, p in self.model.named_parameters()}
        with recording(record):
            return self._batched(parameters, x).flatten(2)

    @property
    def has_kernels(self) -> bool:
        """Whether metarun's own kernels compute the model's convolutions and batch norms on a CPU."""
        return self._batched is not None and self._batched.has_kernels

    def embeddings(self, x: Tensor) -> Tensor:
        """Map x [T, n, …] to embeddings [T, n, features], without a support set."""
        with passing(self._pass(len(x))):
            return self.embed(x)

    @property
    def _together(self) -> bool:
        return self.training or self.transductive

    def _pass(self, tasks: int) -> Pass:
        return Pass(tasks, self._together, {} if self.training else None)

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the predictors of T tasks; query sets that share batch statistics are embedded, too."""
        known = self.known(tasks)
        predictions: Predictions | None = None
        with passing(now := self._pass(len(tasks))), dropping(tasks.key):
            if not self._together:
                return Embedded(known, self.learn(self.embed(known), tasks))
            features = self.embed(torch.cat([known, tasks.query.x], 1))
            predictor = self.learn(features[:, : known.shape[1]], tasks)
            if self.answers_in_pass:
                predictions = self.answer(predictor, features[:, known.shape[1] :])
        return Embedded(
            known, predictor, tasks.query.x, features, predictions, changes=running_changes(self, now)
        )

    def known(self, tasks: Tasks) -> Tensor:
        """Return the inputs whose embeddings `learn` gets: the support sets."""
        return tasks.support.x

    def predict(self, adapted: Embedded, x: Tensor) -> Predictions:
        """Map x [T, n, …] to predictions."""
        if x is adapted.query_x and adapted.predictions is not None:
            return adapted.predictions
        if x is adapted.query_x and adapted.features is not None:
            return self.answer(adapted.predictor, adapted.features[:, adapted.support_x.shape[1] :])
        shots = adapted.support_x.shape[1] if self._together else 0
        with passing(self._pass(len(x))):
            features = self.embed(torch.cat([adapted.support_x, x], 1) if shots else x)
            return self.answer(adapted.predictor, features[:, shots:])

    def changes(self, adapted: Embedded) -> Mapping[str, Tensor]:
        """Return each task's changes of the running statistics, [T, channels] by name."""
        return adapted.changes

    def learned(self, tasks: Tasks) -> list[Figure]:
        """Return a figure of the first task's embeddings, if it has classes."""
        if tasks.support.y.is_floating_point():
            return []
        return [embedding_figure(self, tasks.part(slice(1)))]

    @property
    def is_transductive(self) -> bool | None:
        """Whether batch norms see the query set of a test; None without batch norms."""
        has_norms = any(isinstance(module, TaskNorm) for module in self.modules())
        return self.transductive if has_norms else None

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: batch norms."""
        has_norms = any(isinstance(module, TaskNorm) for module in self.modules())
        return PADDED_NORMS if has_norms and tasks.is_padded else ""

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if a network keeps state other than running statistics."""
        check_forward(self.model, tasks.support.x[0], tasks.query.x[0])


def size_of(model: nn.Module) -> int:
    """Return the size of a model's embedding.

    Raises:
        ConfigError: the model has no attribute `features`.
    """
    size: Any = getattr(model, "features", None)
    if not isinstance(size, int):
        raise ConfigError(f"model: {type(model).__name__} does not tell its `features`, the embedding's size")
    return size
