"""Prototypical networks: a query belongs to the nearest class mean."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.learners.embedding_learner import EmbeddingLearner, class_means
from metarun.learners.similarities import cosines, squared_distances

_TEMPERATURE = 10.0
Temperature = Annotated[float, Field(gt=0, lt=1e6)]


class ProtoNet(EmbeddingLearner):
    """Logits are −‖f(x) − c_k‖², with c_k the mean embedding of class k's support examples.

    Snell, Swersky & Zemel 2017, "Prototypical Networks for Few-shot Learning", arXiv:1703.05175, equations 1
    and 2. With `cosine`, logits are τ · cos(f(x), c_k), and τ is learned (Gidaris & Komodakis 2018,
    arXiv:1804.09458, equation 5).

    Args:
        distance: `squared_euclidean` or `cosine`.
        temperature: initial value of τ.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: a temperature is given with squared Euclidean distances.
    """

    needs = frozenset({"model"})

    ignores_absent_classes = True

    def __init__(
        self,
        *,
        distance: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
        temperature: Temperature = _TEMPERATURE,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.distance = distance
        self.temperature: nn.Parameter | None = None
        if distance == "cosine":
            self.temperature = nn.Parameter(torch.tensor(temperature))
        elif temperature != _TEMPERATURE:
            raise ConfigError(
                f"@learner.temperature={temperature} has no effect with @learner.distance={distance}",
                "@learner.distance=cosine, or leave it out",
            )

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the prototypes, [T, classes, features]."""
        return class_means(features, labels)

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        if self.temperature is not None:
            return self.temperature * cosines(features, classifier)
        return -squared_distances(features, classifier)
