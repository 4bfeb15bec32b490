"""FEAT: prototypes adapted to one another by self-attention."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from metarun.fields import Count
from metarun.learners.embedding_learner import EmbeddingLearner, class_means
from metarun.learners.one_pass import size_of
from metarun.learners.similarities import squared_distances
from metarun.system.randomness import Seeding, Streams

Temperature = Annotated[float, Field(gt=0, lt=1e6)]


class SetAttention(nn.Module):
    """One layer of multi-head self-attention with a residual connection and a layer norm.

    Args:
        size: size of an element.
        heads: attention heads; each is as wide as an element, as in the authors' code.
    """

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query, self.key, self.value = (nn.Linear(size, heads * size, bias=False) for _ in range(3))
        self.out = nn.Linear(heads * size, size)
        self.norm = nn.LayerNorm(size)
        for projection in (self.query, self.key, self.value):
            nn.init.normal_(projection.weight, std=math.sqrt(1 / size))  # √(2/(d + d))
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map sets x [T, n, size] to the same shape."""
        query, key, value = (
            projection(x).unflatten(2, (self.heads, self.size)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        attention = (query @ key.mT / math.sqrt(self.size)).softmax(3)
        joined = (attention @ value).transpose(1, 2).flatten(2)
        adapted: Tensor = self.norm(self.out(joined) + x)
        return adapted


class FEAT(EmbeddingLearner):
    """Logits are −‖f(x) − p_k‖²/τ, with prototypes p_k adapted to one another by self-attention.

    Ye, Hu, Zhan & Sha 2020, "Few-Shot Learning via Embedding Adaptation with Set-to-Set Functions",
    arXiv:1812.03664, equations 4 to 6. Published numbers start from a pretrained network (model.init_from).
    The paper's contrastive loss term and its dropout are not implemented.

    Args:
        heads: attention heads.
        temperature: τ; the authors tune it, 32 or 64 with convolutional networks.
        seed: seeds the attention's initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: the model has no attribute `features`.
    """

    needs = frozenset({"model", "seed", "seeding"})

    def __init__(
        self,
        *,
        heads: Count = 1,
        temperature: Temperature = 64.0,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.temperature = temperature
        with Streams(seed, seeding).drawing("learner"):
            self.attention = SetAttention(size_of(self.model), heads)

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the adapted prototypes, [T, classes, features]."""
        prototypes: Tensor = self.attention(class_means(features, labels))
        return prototypes

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        return -squared_distances(features, classifier) / self.temperature
