"""Learners that embed the support set, make a classifier of it at once, and embed what they classify."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.learners.embedding import Pass, TaskNorm, passing, running_changes, with_task_norms
from metarun.learners.learner import Learner
from metarun.learners.soundness import check_forward, check_layers
from metarun.models.dropblock import dropping
from metarun.tasks import Examples, Targets, Tasks


@dataclass(frozen=True)
class Embedded:
    """A learner that has embedded the support sets of T tasks.

    Attributes:
        support_x: inputs of the support set.
        classifier: what the learner has made of their embeddings.
        query_x: inputs that were embedded together with the support set, or None.
        logits: their logits.
        changes: what the tasks add to running statistics; see `Learner.changes`.
    """

    support_x: Tensor
    classifier: Any
    query_x: Tensor | None = None
    logits: Tensor | None = None
    changes: Mapping[str, Tensor] = field(default_factory=dict)


class EmbeddingLearner(Learner[Embedded]):
    """Classifies by embeddings: no step is taken, so a task costs one pass of the network.

    In training the support and the query set of a task share their batch statistics, as in ProtoNet's code,
    and running statistics follow those, by torch's rule, as a mean over the tasks of a meta-batch.

    Args:
        model: the network, without a head.
        transductive: at test, normalise a task by its own support and query set, as in training; false:
            by the running statistics of the training, so that each example is classified by itself.
    """

    # Whether a class that a task does not have leaves the scores of the others as they are.
    ignores_absent_classes: ClassVar[bool] = False
    targets: ClassVar[Targets | None] = "classes"
    thread_safe: ClassVar[bool] = True

    def __init__(self, *, model: nn.Module, transductive: bool = False) -> None:
        super().__init__()
        check_layers(model, may_keep_statistics=True)
        self.transductive = transductive
        self.model = with_task_norms(model)

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:  # noqa: ARG003
        """Return None: the model has no head, so any number of classes will do."""
        return None

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

    def embed(self, x: Tensor) -> Tensor:
        """Map the examples of all tasks, x [T, n, …], to [T, n, features], in one call of the network."""
        features: Tensor = self.model(x.flatten(0, 1))
        return features.view(*x.shape[:2], -1)

    @property
    def _together(self) -> bool:
        return self.training or self.transductive

    def _pass(self, tasks: int) -> Pass:
        return Pass(tasks, self._together, {} if self.training else None)

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the classifiers of T tasks; query sets are classified too where they share statistics."""
        support, query = tasks.support, tasks.query
        with passing(now := self._pass(len(tasks))), dropping(tasks.key):
            if not self._together:
                features = self.embed(support.x)
                return Embedded(support.x, self.fit(features, one_hot(support, features.dtype)))
            features = self.embed(torch.cat([support.x, query.x], 1))
            classifier = self.fit(features[:, : len(support)], one_hot(support, features.dtype))
            logits = self.classify(classifier, features[:, len(support) :])
        return Embedded(support.x, classifier, query.x, logits, running_changes(self, now))

    def predict(self, adapted: Embedded, x: Tensor) -> Tensor:
        """Map x [T, n, …] to logits [T, n, classes]."""
        if adapted.logits is not None and x is adapted.query_x:
            return adapted.logits
        shots = adapted.support_x.shape[1] if self._together else 0
        with passing(self._pass(len(x))):
            features = self.embed(torch.cat([adapted.support_x, x], 1) if shots else x)
            return self.classify(adapted.classifier, features[:, shots:])

    def changes(self, adapted: Embedded) -> Mapping[str, Tensor]:
        """Return what each task adds to the running statistics, [T, channels] by name."""
        return adapted.changes

    @property
    def is_transductive(self) -> bool | None:
        """Whether batch norms see the query set of a test; None without batch norms."""
        has_norms = any(isinstance(module, TaskNorm) for module in self.modules())
        return self.transductive if has_norms else None

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be compiled to one graph."""
        return "the number of classes follows from the labels of a task"

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError for other targets than classes, padding beside batch norms, or other state."""
        name = type(self).__name__
        if tasks.support.y.is_floating_point() or tasks.support.y.dim() != 2:
            raise ConfigError(
                f"{name} needs classes, and the targets of this data are {tasks.support.y.dtype} "
                f"{list(tasks.support.y.shape[2:])}",
                "@source=omniglot, or another @learner",
            )
        if tasks.ways is not None and not self.ignores_absent_classes:
            raise ConfigError(
                f"{name} would count the classes that smaller tasks do not have", "@learner=protonet"
            )
        padded = tasks.support.mask is not None or tasks.query.mask is not None
        if padded and self.is_transductive is not None:
            raise ConfigError(
                "model: its batch norms would count the padding of smaller tasks",
                "@model.norm=group, or another",
            )
        check_forward(self.model, tasks.support.x[0], tasks.query.x[0])


def one_hot(examples: Examples, dtype: torch.dtype, classes: int = -1) -> Tensor:
    """Return the labels as [T, n, classes], with zeros for padding; by default as many classes as labels."""
    labels = examples.y if examples.mask is None else examples.y.masked_fill(~examples.mask, 0)
    hot = F.one_hot(labels, classes).to(dtype)
    return hot if examples.mask is None else hot * examples.mask[..., None]


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean embedding of each class, [T, classes, features], of features [T, n, features]."""
    return labels.mT @ features / labels.sum(1).clamp_min(1)[..., None]


def size_of(model: nn.Module) -> int:
    """Return the size of a model's embedding.

    Raises:
        ConfigError: the model does not tell it.
    """
    size: Any = getattr(model, "features", None)
    if not isinstance(size, int):
        raise ConfigError(f"model: {type(model).__name__} does not tell its `features`, the embedding's size")
    return size
