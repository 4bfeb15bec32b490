"""Relation networks: a learned module compares a query with each class."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.learners.embedding import with_task_norms
from metarun.learners.embedding_learner import EmbeddingLearner, one_hot
from metarun.learners.one_pass import Embedded
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Scores, Tasks


class RelationNet(EmbeddingLearner):
    """Logits of the scores r(class, query) = sigmoid(g([Σ f(x_i), f(x)])), with a learned module g.

    Sung, Yang, Zhang, Xiang, Torr & Hospedales 2018, "Learning to Compare: Relation Network for Few-Shot
    Learning", arXiv:1711.06025, equations 1 and 2, section 3.4. The feature maps of a class are the sum over
    its support examples. g has two blocks of convolution, batch norm, ReLU and, if the map is large enough,
    2 × 2 max-pooling, then two linear layers. The model must have the attribute `feature_shape`.

    Args:
        loss: training loss: `mse` of the scores against one-hot labels, as published, or `cross_entropy` of
            the scores' logits. Tests report the cross-entropy of the logits.
        channels: channels of the relation module's convolutions.
        hidden: size of the relation module's hidden linear layer.
        seed: seeds the relation module's initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: the model has no feature maps.
    """

    needs = frozenset({"model", "seed", "seeding"})

    def __init__(
        self,
        *,
        loss: Literal["mse", "cross_entropy"] = "mse",
        channels: Size = 64,
        hidden: Annotated[int, Field(ge=1, le=1_000_000)] = 8,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        shape: Any = getattr(self.model, "feature_shape", None)
        if shape is None:
            raise ConfigError(
                f"model: {type(self.model).__name__} has no feature maps to compare (`feature_shape`)",
                "@model=conv4",
            )
        self.loss, self.feature_shape = loss, tuple(shape)
        with Streams(seed, seeding).drawing("learner"):
            self.relation = with_task_norms(relation_module(self.feature_shape, channels, hidden))

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the summed feature maps of each class, [T, classes, features]."""
        return labels.mT @ features

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of the relation scores, [T, n, classes]."""
        tasks, queries, classes = *features.shape[:2], classifier.shape[1]
        shape = (tasks, queries, classes, *self.feature_shape)
        maps = (
            classifier.view(tasks, 1, classes, *self.feature_shape).expand(shape),
            features.view(tasks, queries, 1, *self.feature_shape).expand(shape),
        )
        pairs = torch.cat(maps, 3).flatten(0, 2)  # [T · n · classes, 2 · channels, height, width]
        logits: Tensor = self.relation(pairs)
        return logits.view(tasks, queries, classes)

    def scores(self, adapted: Embedded, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of the query sets, [T]; in training, with the loss `loss`."""
        scores = super().scores(adapted, tasks)
        if self.training and self.loss == "mse":
            logits = self.predict(adapted, tasks.query.x)
            errors = (logits.sigmoid() - one_hot(tasks.query, logits.dtype, logits.shape[2])).square().mean(2)
            mask = tasks.query.mask
            scores["loss"] = errors.mean(1) if mask is None else (errors * mask).sum(1) / mask.sum(1)
        return scores


def relation_module(shape: tuple[int, ...], channels: int, hidden: int) -> nn.Sequential:
    """Return g: pairs of feature maps [n, 2 · channels, height, width] to logits [n, 1]."""
    before, height, width = shape
    module = nn.Sequential()
    for block in (1, 2):
        layers: list[nn.Module] = [nn.Conv2d(2 * before if block == 1 else channels, channels, 3, padding=1)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        if min(height, width) >= 2:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        module.add_module(f"block{block}", nn.Sequential(*layers))
    module.add_module("flatten", nn.Flatten())
    module.add_module("hidden", nn.Linear(channels * height * width, hidden))
    module.add_module("relu", nn.ReLU())
    module.add_module("score", nn.Linear(hidden, 1))
    return module
