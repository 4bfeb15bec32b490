"""SimpleShot: the nearest class mean of transformed embeddings."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from metarun.learners.baselines.transformed import Transform, Transformed
from metarun.learners.embedding_learner import class_means
from metarun.learners.similarities import cosines, squared_distances


class SimpleShot(Transformed):
    """Logits are −‖f(x) − c_k‖², with c_k the mean of class k's transformed embeddings.

    Wang, Chao, Weinberger & van der Maaten 2019, "SimpleShot: Revisiting Nearest-Neighbor Classification for
    Few-Shot Learning", arXiv:1911.04623, section 3, with a network that was trained to classify all training
    classes.

    Args:
        distance: `squared_euclidean`, as published; or `cosine`.
        transform: `none`, `l2` (L2N) or `centred_l2` (CL2N); see Transformed.
        **shared: see Pretrained.
    """

    for_tests = frozenset({"distance", "transform"})

    ignores_absent_classes = True

    def __init__(
        self,
        *,
        distance: Literal["squared_euclidean", "cosine"] = "squared_euclidean",
        transform: Transform = "centred_l2",
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform, **shared)
        self.distance = distance

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the centroids, [T, classes, features]."""
        return class_means(features, labels)

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        if self.distance == "cosine":
            return cosines(features, classifier)
        return -squared_distances(features, classifier)
