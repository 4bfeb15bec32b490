"""Matching networks: a query's label is a mean of the support labels, weighted by similarity."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Count
from metarun.figures import Figure
from metarun.learners.embedding_learner import EmbeddingLearner
from metarun.learners.one_pass import size_of
from metarun.learners.seen import attention_figure
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Tasks

_ATTENTION_STEPS = 5


class Memory(NamedTuple):
    """Embedded support sets, [T, n, features], and their one-hot labels, [T, n, classes]."""

    features: Tensor
    labels: Tensor


class MatchingNet(EmbeddingLearner):
    """P(y | x) = Σ_i a(x, x_i) y_i, with a the softmax over the support set of cos(f(x), g(x_i)).

    Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra 2016, "Matching Networks for One Shot Learning",
    arXiv:1606.04080, equation 1 and section 2.1.1; logits are log P.

    Args:
        full_context: whether embeddings depend on the whole support set (appendix A). g is then a
            bidirectional LSTM over the support set, whose order matters, and f is an LSTM with attention to
            the support set. The paper does not give the initial state of f; here h_0 is the query's
            embedding, and c_0 is zero.
        attention_steps: number K of steps of f's LSTM.
        seed: seeds the LSTMs' initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: full context with a model without the attribute `features`, or attention steps without
            full context.
    """

    needs = frozenset({"model", "seed", "seeding"})

    ignores_absent_classes = True

    def __init__(
        self,
        *,
        full_context: bool = False,
        attention_steps: Count = _ATTENTION_STEPS,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.attention_steps = attention_steps
        self.support_lstm: nn.LSTM | None = None
        self.query_lstm: nn.LSTMCell | None = None
        if not full_context and attention_steps != _ATTENTION_STEPS:
            raise ConfigError(
                f"@learner.attention_steps={attention_steps} has no effect with @learner.full_context=false",
                "@learner.full_context=true, or leave it out",
            )
        if full_context:
            size = size_of(self.model)
            with Streams(seed, seeding).drawing("learner"):
                self.support_lstm = nn.LSTM(size, size, batch_first=True, bidirectional=True)
                self.query_lstm = nn.LSTMCell(2 * size, size)

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the embedded support set, in its full context if `full_context` is set."""
        if self.support_lstm is not None:
            forward, backward = self.support_lstm(features)[0].chunk(2, 2)
            features = forward + backward + features
        return Memory(features, labels)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return log P of the classes, [T, n, classes]."""
        probabilities = self.attention(classifier, features) @ classifier.labels
        return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()

    def attention(self, memory: Memory, features: Tensor) -> Tensor:
        """Return a(x, x_i), [T, n, m], for embedded queries [T, n, features] and m support examples."""
        if self.query_lstm is not None:
            features = self._attend(self.query_lstm, memory, features)
        similarity = F.normalize(features, dim=2) @ F.normalize(memory.features, dim=2).mT
        is_padding = memory.labels.sum(2) == 0
        return similarity.masked_fill(is_padding[:, None], -torch.inf).softmax(2)

    def learned(self, tasks: Tasks) -> list[Figure]:
        """Return figures of the first task's embedding and of its queries' attention."""
        task = tasks.part(slice(1))
        with self.evaluating(), torch.no_grad():
            memory = self.adapt(task.without_answers()).predictor
            weights = self.attention(memory, self.embeddings(task.query.x))[0]
        return [*super().learned(tasks), attention_figure(weights, task)]

    def _attend(self, lstm: nn.LSTMCell, memory: Memory, features: Tensor) -> Tensor:
        """Return f(x, S) of appendix A.2, with h = ĥ + f′(x) and a readout r of the support set."""
        queries = features.flatten(0, 1)
        h, c = queries, torch.zeros_like(queries)
        for _ in range(self.attention_steps):
            attention = (h.view_as(features) @ memory.features.mT).softmax(2)
            readout = (attention @ memory.features).flatten(0, 1)
            # LSTM(f′, [h, r], c): its gates are an affine map of all three, whichever of them is "the input".
            h, c = lstm(torch.cat([queries, readout], 1), (h, c))
            h = h + queries
        return h.view_as(features)

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: also a full context."""
        if self.support_lstm is not None and tasks.support.mask is not None:
            return "its full context would read the padding of smaller tasks"
        return super().apart(tasks)
