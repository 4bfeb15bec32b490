"""Supervised training on all training classes; few-shot tasks are for validation and test."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.embedding import passing, running_changes
from metarun.learners.embedding_learner import EmbeddingLearner
from metarun.learners.one_pass import Embedded, size_of
from metarun.learners.soundness import check_forward
from metarun.models.dropblock import dropping
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Tasks, TrainsOn

Head = Literal["linear", "cosine"]


class TrainingHead(nn.Module):
    """Maps embeddings [T, n, features] to logits of all training classes, [T, n, classes].

    It is not called `head`, like a model's head, because no task uses it.

    Args:
        features: size of an embedding.
        classes: number of training classes.
        kind: `linear`; or `cosine`: logits are a learned scale times the cosine to a class's weights.
        scale: initial value of the scale.
    """

    def __init__(self, features: int, classes: int, kind: Head, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(features, classes, bias=kind == "linear")
        self.scale = nn.Parameter(torch.tensor(scale)) if kind == "cosine" else None

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits."""
        if self.scale is None:
            logits: Tensor = self.linear(features)
            return logits
        return self.scale * (F.normalize(features, dim=2) @ F.normalize(self.linear.weight, dim=1).T)


class Pretrained(EmbeddingLearner):
    """A network that is trained to classify images of all training classes.

    For each few-shot task, subclasses make a classifier of embeddings by `fit` and `classify`.

    Args:
        model: the network, without a head.
        training_output_size: number of training classes.
        head: linear, or cosine with a learned scale (Chen et al. 2019, arXiv:1904.04232, section 3.2).
        scale: initial value of the scale.
        transductive: see EmbeddingLearner.
        seed: seeds the training head's initial weights.
        seeding: how their seed is derived; see `Streams`.

    Raises:
        ConfigError: the model has no attribute `features`.
    """

    trains_on: ClassVar[TrainsOn] = "images"

    def __init__(
        self,
        *,
        model: nn.Module,
        training_output_size: int,
        head: Head = "linear",
        scale: float = 10.0,
        transductive: bool = False,
        seed: int = 0,
        seeding: Seeding = "streams",
    ) -> None:
        super().__init__(model=model, transductive=transductive)
        self.kind = head
        size = size_of(model)
        with Streams(seed, seeding).drawing("learner"):
            self.training_head = TrainingHead(size, training_output_size, head, scale)

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the classifiers of T tasks; in training, the logits of T mini-batches of all classes.

        In training, `predictor` holds the mean embeddings of the mini-batches, [T, features].
        """
        if not self.training:
            return super().adapt(tasks)
        with passing(now := self._pass(len(tasks))), dropping(tasks.key):
            features = self.embed(tasks.query.x)
            logits = self.training_head(features)
        means = features.detach().mean(1)
        changes = running_changes(self, now)
        return Embedded(tasks.support.x, means, tasks.query.x, predictions=logits, changes=changes)

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError as EmbeddingLearner does; a training mini-batch has no support set."""
        if len(tasks.support):
            super().check(tasks)
        else:
            check_forward(self.model, tasks.query.x[0], tasks.query.x[-1])
