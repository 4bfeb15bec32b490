"""MetaNet: fast weights of a classifier's layers, generated from the gradient of each support example."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Size
from metarun.learners.embedding_learner import EmbeddingLearner, one_hot
from metarun.learners.one_pass import size_of
from metarun.rules.coordinatewise import log_and_sign
from metarun.rules.perceptron import perceptron
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Tasks

# Of the preprocessing of gradients, as in learned optimizers (arXiv:1606.04474, appendix A).
_SMALLEST = 10.0


@dataclass(frozen=True)
class Memory:
    """Keys and fast weights of the support sets of T tasks.

    Attributes:
        keys: of unit length, [T, n, key].
        hidden: fast weights of the hidden layer from each example, [T, n, hidden, features].
        out: fast weights of the last layer from each example, [T, n, classes, hidden].
        mask: [T, n], False at padding; None: no padding.
    """

    keys: Tensor
    hidden: Tensor
    out: Tensor
    mask: Tensor | None


class MetaNet(EmbeddingLearner):
    """A two-layer head whose slow weights are learned, and whose fast weights are read from a memory.

    Munkhdalai & Yu 2017, "Meta Networks", arXiv:1703.00837, sections 3.1 and 3.2. A network maps each entry
    of the gradient of a support example's loss to a fast weight. A query averages the fast weights of all
    support examples, weighted by a softmax of the cosines of their keys. Each layer adds the activations of
    slow and fast weights. Here the embedding has only slow weights; in the paper it has fast weights, too.

    Args:
        output_size: number of classes.
        training_output_size: number of classes while training.
        hidden: units of the head's hidden layer.
        key: size of keys.
        writer: hidden units of the network that maps an entry of a gradient to a fast weight.
        seed: seeds the initial weights.
        seeding: how their seed is derived; see `Streams`.
        **shared: model and transductive (EmbeddingLearner).

    Raises:
        ConfigError: training tasks and test tasks have different numbers of classes.
    """

    needs = frozenset({"model", "output_size", "training_output_size", "seed", "seeding"})

    def __init__(
        self,
        *,
        output_size: int,
        training_output_size: int,
        hidden: Size = 64,
        key: Size = 64,
        writer: Size = 20,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if output_size != training_output_size:
            raise ConfigError(
                f"@source.train_way={training_output_size} and @source.way={output_size}: this head has one "
                f"number of classes",
                "@source.train_way=null",
            )
        size, self.classes = size_of(self.model), output_size
        with Streams(seed, seeding).drawing("learner"):
            self.key = nn.Linear(size, key)
            self.hidden, self.out = nn.Linear(size, hidden), nn.Linear(hidden, output_size)
            self.write_hidden, self.write_out = (perceptron(2, writer, 1, 3) for _ in range(2))
            self.sharpness = nn.Parameter(torch.ones(()))

    def learn(self, features: Tensor, tasks: Tasks) -> Memory:
        """Return the memories of the embedded support sets, [T, n, features]."""
        labels = one_hot(tasks.support, features.dtype, self.classes)
        memory = self.fit(features, labels)
        return Memory(memory.keys, memory.hidden, memory.out, tasks.support.mask)

    def fit(self, features: Tensor, labels: Tensor) -> Memory:
        """Return the keys and fast weights of T support sets."""
        active = self.hidden(features).relu()
        of_logits = self.out(active).softmax(2) - labels  # the gradient of an example's cross-entropy
        of_hidden = (of_logits @ self.out.weight) * (active > 0)
        hidden = of_hidden[..., None] * features[:, :, None]
        out = of_logits[..., None] * active[:, :, None]
        keys = F.normalize(self.key(features), dim=2)
        return Memory(keys, _written(self.write_hidden, hidden), _written(self.write_out, out), None)

    def classify(self, classifier: Memory, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, m, classes]."""
        similar = F.normalize(self.key(features), dim=2) @ classifier.keys.mT
        if classifier.mask is not None:
            similar = similar.masked_fill(~classifier.mask[:, None], -torch.inf)
        attention = (self.sharpness.exp() * similar).softmax(2)  # [T, m, n]
        fast = torch.einsum("tmn,tnhf,tmf->tmh", attention, classifier.hidden, features)
        active = self.hidden(features).relu() + fast.relu()
        logits: Tensor = self.out(active) + torch.einsum(
            "tmn,tnch,tmh->tmc", attention, classifier.out, active
        )
        return logits


def _written(writer: nn.Module, gradients: Tensor) -> Tensor:
    """Map each entry of gradients to a fast weight, in the same shape."""
    weights: Tensor = writer(log_and_sign(gradients, _SMALLEST))
    return weights.squeeze(-1)
