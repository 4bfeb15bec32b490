"""Learners that make a classifier from the embedded support set, and classify embedded queries."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.learners.one_pass import Embedded, OnePassLearner
from metarun.tasks import Examples, Targets, Tasks


class EmbeddingLearner(OnePassLearner):
    """Classifies by embeddings; tasks may have any number of classes, because the model has no head.

    Args:
        **shared: model and transductive (OnePassLearner).
    """

    # Whether the scores of a task's classes do not depend on classes that the task does not have.
    ignores_absent_classes: ClassVar[bool] = False
    targets: ClassVar[Targets | None] = "classes"

    @abstractmethod
    def fit(self, features: Tensor, labels: Tensor) -> Any:
        """Make a classifier.

        Args:
            features: embedded support sets, [T, n, features].
            labels: one-hot, [T, n, classes]; zeros for padding.
        """

    @abstractmethod
    def classify(self, classifier: Any, features: Tensor) -> Tensor:
        """Map embeddings [T, n, features] to logits [T, n, classes]."""

    def learn(self, features: Tensor, tasks: Tasks) -> Any:
        """Make classifiers from the embedded support sets, [T, n, features]."""
        return self.fit(features, support_labels(tasks, features.dtype))

    def answer(self, predictor: Any, features: Tensor) -> Tensor:
        """Map embeddings [T, n, features] to logits [T, n, classes]."""
        return self.classify(predictor, features)

    def predict(self, adapted: Embedded, x: Tensor) -> Tensor:
        """Map x [T, n, …] to logits [T, n, classes]."""
        logits = super().predict(adapted, x)
        assert isinstance(logits, Tensor)
        return logits

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be compiled to one graph."""
        return "the number of classes follows from the labels of a task"

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: batch norms, absent classes."""
        if tasks.ways is not None and not self.ignores_absent_classes:
            return "it would count the classes that smaller tasks do not have"
        return super().apart(tasks)

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if targets are not classes, or a network keeps state other than statistics."""
        check_classes(type(self).__name__, tasks)
        super().check(tasks)


def check_classes(name: str, tasks: Tasks) -> None:
    """Raise ConfigError if the targets are not classes."""
    y = tasks.support.y
    if y.is_floating_point() or y.dim() != 2:
        raise ConfigError(
            f"{name} needs classes, and the targets of this data are {y.dtype} {list(y.shape[2:])}",
            "@source=omniglot, or another @learner",
        )


def one_hot(examples: Examples, dtype: torch.dtype, classes: int = -1) -> Tensor:
    """Return one-hot labels [T, n, classes], zeros for padding; by default classes = largest label + 1."""
    labels = examples.y if examples.mask is None else examples.y.masked_fill(~examples.mask, 0)
    hot = F.one_hot(labels, classes).to(dtype)
    return hot if examples.mask is None else hot * examples.mask[..., None]


def support_labels(tasks: Tasks, dtype: torch.dtype) -> Tensor:
    """Return the labels of support sets as [T, n, classes], with zeros for padding.

    If tasks have different numbers of classes, all get the largest number, and some classes have no examples.
    """
    return one_hot(tasks.support, dtype, -1 if tasks.ways is None else int(tasks.ways.max()))


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean embedding of each class, [T, classes, features], from features [T, n, features]."""
    return labels.mT @ features / labels.sum(1).clamp_min(1)[..., None]
