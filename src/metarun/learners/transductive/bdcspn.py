"""BD-CSPN: prototypes rectified by the query set."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from metarun.fields import Count
from metarun.learners.baselines.transformed import Transform
from metarun.learners.embedding_learner import class_means
from metarun.learners.metric.matchingnet import Memory
from metarun.learners.similarities import cosines
from metarun.learners.transductive.transductive import Transductive, predicted

Scale = Annotated[float, Field(gt=0, lt=1e6)]


class BDCSPN(Transductive):
    """Logits are τ cos(f(x), p_k), with prototypes from the support set and shifted, pseudo-labelled queries.

    Liu, Song & Qin 2020, "Prototype Rectification for Few-Shot Learning", arXiv:1911.10713, equations 3 to 7.
    All queries are shifted by the support mean minus the query mean. The weights of a class's examples are
    the softmax of ε times their cosine to the first prototype.

    Args:
        epsilon: ε; the default was not checked against the paper.
        most: number of pseudo-labelled queries used for a class, the most similar ones; null: all. The
            default was not checked against the paper.
        temperature: τ.
        transform: `none`, `l2` or `centred_l2`; see Transformed.
        **shared: see Pretrained.
    """

    for_tests = frozenset({"epsilon", "most", "temperature", "transform"})

    def __init__(
        self,
        *,
        epsilon: Scale = 10.0,
        most: Count | None = 8,
        temperature: Scale = 10.0,
        transform: Transform = "l2",
        **shared: Any,
    ) -> None:
        super().__init__(transform=transform, **shared)
        self.epsilon, self.most, self.temperature = epsilon, most, temperature

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the support set."""
        return Memory(features, labels)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return the logits of a whole query set, [T, n, classes]."""
        return self.temperature * cosines(features, rectified(classifier, features, self.epsilon, self.most))


def rectified(support: Memory, query: Tensor, epsilon: float, most: int | None) -> Tensor:
    """Return the rectified prototypes, [T, classes, features]; see BDCSPN.

    Args:
        support: the support set.
        query: embedded queries, [T, m, features].
        epsilon: sharpness of the weights.
        most: number of pseudo-labelled queries used for a class; None: all.
    """
    labels = support.labels
    counts = labels.sum((1, 2))[:, None, None]  # without padding
    is_example = labels.sum(2, keepdim=True)
    shift = (support.features * is_example).sum(1, keepdim=True) / counts - query.mean(1, keepdim=True)
    prototypes = class_means(support.features, labels)
    query = query + shift
    similarity = cosines(query, prototypes)
    pseudo = predicted(similarity)
    if most is not None and most < query.shape[1]:
        ranked = similarity.masked_fill(pseudo == 0, -torch.inf).topk(most, 1)
        kept = torch.zeros_like(pseudo).scatter_(1, ranked.indices, 1.0)
        pseudo = pseudo * kept
    features = torch.cat([support.features, query], 1)
    members = torch.cat([labels, pseudo], 1)
    logits = epsilon * torch.cat([cosines(support.features, prototypes), similarity], 1)
    weights = logits.masked_fill(members == 0, -torch.inf).softmax(1)
    return weights.mT @ features
