"""A network that writes a head's weights for a class from the mean embedding of its examples."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from metarun.fields import Depth, Size
from metarun.learners.embedding_learner import EmbeddingLearner, class_means
from metarun.learners.one_pass import size_of
from metarun.rules.perceptron import perceptron
from metarun.system.randomness import Seeding, Streams


class HypernetHead(EmbeddingLearner):
    """Logits are w_k·f(x) + b_k, with w_k = s (c_k + h_w(c_k)) and b_k = h_b(c_k), by a perceptron h.

    c_k is the mean embedding of class k, so tasks may have any number of classes; s is learned. This is the
    activation-to-parameter map of Qiao, Liu, Shen & Yuille 2018, "Few-Shot Image Recognition by Predicting
    Parameters from Activations", arXiv:1706.03466, equation 2; its authors learn it on a fixed embedding.

    Args:
        width: units of h's hidden layers.
        depth: number of h's layers.
        seed: seeds h's initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: the model has no attribute `features`.
    """

    needs = frozenset({"model", "seed", "seeding"})
    ignores_absent_classes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        width: Size = 128,
        depth: Depth = 2,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        size = size_of(self.model)
        with Streams(seed, seeding).drawing("learner"):
            self.writer = perceptron(size, width, size + 1, depth)
            self.scale = nn.Parameter(self.writer[0].weight.new_tensor(size**-0.5))  # type: ignore[operator]

    def fit(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the heads: weights [T, classes, features] and biases [T, classes]."""
        means = class_means(features, labels)
        written = self.writer(means)
        return self.scale * (means + written[..., :-1]), written[..., -1]

    def classify(self, classifier: tuple[Tensor, Tensor], features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        weights, biases = classifier
        return features @ weights.mT + biases[:, None]
