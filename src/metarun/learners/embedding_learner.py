"""Learners that embed the support set, make a classifier of it at once, and embed what they classify."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.learners.embedding import Embedding
from metarun.learners.learner import Learner
from metarun.learners.soundness import check_forward, check_layers
from metarun.tasks import Examples, Targets, Tasks


@dataclass(frozen=True)
class Embedded:
    """A learner that has embedded the support sets of T tasks.

    Attributes:
        support_x: inputs of the support set.
        classifier: what the learner has made of their embeddings.
        query_x: inputs that were embedded together with the support set, or None.
        query: their embeddings.
        changes: what the tasks add to running statistics; see `Learner.changes`.
    """

    support_x: Tensor
    classifier: Any
    query_x: Tensor | None
    query: Tensor | None
    changes: Mapping[str, Tensor]


class EmbeddingLearner(Learner[Embedded]):
    """Classifies by embeddings: no step is taken, so a task costs one pass of the network.

    In training the support and the query set of a task share their batch statistics, as in ProtoNet's code,
    and running statistics follow those, by torch's rule, as a mean over the tasks of a meta-batch.

    Args:
        model: the network, without a head.
        transductive: at test, normalise a task by its own support and query set, as in training; false:
            by the running statistics of the training, so that each example is classified by itself.
    """

    targets: ClassVar[Targets | None] = "classes"
    thread_safe: ClassVar[bool] = True

    def __init__(self, *, model: nn.Module, transductive: bool = False) -> None:
        super().__init__()
        check_layers(model, may_keep_statistics=True)
        self.transductive = transductive
        self.embedding = Embedding(model)

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

    @property
    def _together(self) -> bool:
        return self.training or self.transductive

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the classifiers of T tasks; query sets are embedded too where they share statistics."""
        shots, support_x = len(tasks.support), tasks.support.x
        query_x = tasks.query.x if self._together else None
        x = support_x if query_x is None else torch.cat([support_x, query_x], 1)
        features, changes = self.embedding(x, batch_statistics=self._together)
        classifier = self.fit(features[:, :shots], one_hot(tasks.support, features.dtype))
        query = None if query_x is None else features[:, shots:]
        return Embedded(support_x, classifier, query_x, query, changes)

    def predict(self, adapted: Embedded, x: Tensor) -> Tensor:
        """Map x [T, n, …] to logits [T, n, classes]."""
        if adapted.query is not None and x is adapted.query_x:
            return self.classify(adapted.classifier, adapted.query)
        shots = adapted.support_x.shape[1] if self._together else 0
        together = torch.cat([adapted.support_x, x], 1) if shots else x
        features, _ = self.embedding(together, batch_statistics=self._together)
        return self.classify(adapted.classifier, features[:, shots:])

    def changes(self, adapted: Embedded) -> Mapping[str, Tensor]:
        """Return what each task adds to the running statistics, [T, channels] by name."""
        return {f"embedding.{name}": change for name, change in adapted.changes.items()}

    @property
    def is_transductive(self) -> bool | None:
        """Whether batch norms see the query set of a test; None without batch norms."""
        return self.transductive if self.embedding.has_batch_norms else None

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
        padded = tasks.support.mask is not None or tasks.query.mask is not None
        if padded and self.embedding.has_batch_norms:
            raise ConfigError(
                "model: its batch norms would count the padding of smaller tasks",
                "@model.norm=group, or another",
            )
        check_forward(self.embedding.model, tasks.support.x[0], tasks.query.x[0])


def one_hot(examples: Examples, dtype: torch.dtype) -> Tensor:
    """Return the labels as [T, n, classes], with zeros for padding; there are as many classes as labels."""
    labels = examples.y if examples.mask is None else examples.y.masked_fill(~examples.mask, 0)
    hot = F.one_hot(labels).to(dtype)
    return hot if examples.mask is None else hot * examples.mask[..., None]


def class_means(features: Tensor, labels: Tensor) -> Tensor:
    """Return the mean embedding of each class, [T, classes, features], of features [T, n, features]."""
    return labels.mT @ features / labels.sum(1).clamp_min(1)[..., None]
