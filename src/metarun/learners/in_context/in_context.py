"""Learning in context: a transformer reads the support set as tokens and predicts the queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.fields import Count, Depth, Size
from metarun.learners.in_context.ensemble import views
from metarun.learners.in_context.reading import ReadingLearner
from metarun.learners.in_context.transformer import Cache, NormPlace, Transformer
from metarun.rules.perceptron import perceptron
from metarun.system.randomness import Streams
from metarun.tasks import Predictions, Tasks

# Width, blocks and heads, as in the code of arXiv:2208.01066.
SIZES = {"tiny": (64, 3, 2), "small": (128, 6, 4), "standard": (256, 12, 8)}


@dataclass(frozen=True)
class Tokens:
    """T support sets after the transformer.

    Attributes:
        caches: keys and values of each block.
        mask: [T, tokens], False at padding.
        lengths: number of tokens of each task, [T].
        outputs: if causal: outputs for each support example, from the examples before it.
    """

    caches: list[Cache]
    mask: Tensor | None
    lengths: Tensor
    outputs: Tensor | None


class InContext(ReadingLearner):
    """A transformer over the support set; a query sees the support set, and no other query.

    Causal: the tokens x₁, y₁, x₂, y₂, … have positions, and each token attends to the tokens before it. The
    output at x_i predicts y_i, so one pass learns from every number of examples (Garg, Tsipras, Liang &
    Valiant 2022, "What Can Transformers Learn In-Context?", arXiv:2208.01066). Not causal: each pair (x, y)
    is a token without a position, support tokens attend to one another, and a query attends only to support
    tokens (Müller et al. 2022, "Transformers Can Do Bayesian Inference", arXiv:2112.10510; TNP-D of Nguyen &
    Grover 2022, arXiv:2207.04179).

    Args:
        causal: whether the support set is read as a sequence, as above.
        size: size of the transformer: tiny, small or standard (64, 128 or 256 wide); see SIZES.
        width: width of a token; null: from `size`.
        depth: number of blocks; null: from `size`.
        heads: attention heads; null: from `size`.
        hidden: hidden units of the blocks' perceptrons; null: four times the width.
        positions: if `causal`: the largest number of support examples; null: not causal.
        embedding_depth: layers of the perceptron that makes tokens.
        head_depth: layers of the perceptron that makes predictions.
        norm: see `transformer.Block`.
        ensemble: number of orders of a table's columns and classes over which predictions are averaged at
            test; see `ensemble.View`. Each order costs one pass.
        **shared: see ReadingLearner.

    Raises:
        ConfigError: `positions` is missing or without effect, the heads do not divide the width, or an
            ensemble has no columns to reorder.
    """

    for_tests: ClassVar[frozenset[str]] = frozenset({"ensemble"})

    def __init__(
        self,
        *,
        causal: bool = True,
        size: Literal["tiny", "small", "standard"] = "tiny",
        width: Size | None = None,
        depth: Depth | None = None,
        heads: Count | None = None,
        hidden: Size | None = None,
        positions: Count | None = None,
        embedding_depth: Depth = 1,
        head_depth: Depth = 1,
        norm: NormPlace = "pre",
        ensemble: Count = 1,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        sizes = SIZES[size]
        self.width, depth, heads = width or sizes[0], depth or sizes[1], heads or sizes[2]
        hidden = hidden or 4 * self.width
        self._check(causal, positions, heads)
        self.causal, self.most, self.ensemble = causal, positions, ensemble
        if ensemble > 1 and any(True for _ in self.model.parameters()):
            raise ConfigError(
                f"@learner.ensemble={ensemble}: orders of columns, and the model embeds its inputs",
                "@learner.ensemble=1, or vectors and model=embedding",
            )
        with Streams(self.seed, self.seeding).drawing("learner"):
            pair = self.features + self.output_size
            if causal:
                self.embed_input = perceptron(self.features, self.width, self.width, embedding_depth)
                self.embed_target = perceptron(self.output_size, self.width, self.width, embedding_depth)
                assert positions is not None
                self.positions = nn.Parameter(0.02 * torch.randn(2 * positions + 1, self.width))
            else:
                self.embed_pair = perceptron(pair, self.width, self.width, embedding_depth)
            self.transformer = Transformer(depth, self.width, heads, hidden, norm)
            self.head = perceptron(self.width, hidden, self.outputs_size, head_depth)

    def _check(self, causal: bool, positions: int | None, heads: int) -> None:
        if causal != (positions is not None):
            said = "null" if positions is None else positions
            raise ConfigError(
                f"@learner.causal={str(causal).lower()} and @learner.positions={said} do not agree",
                f"@learner.positions={'64, or another number of examples' if causal else 'null'}",
            )
        if self.width % heads:
            raise ConfigError(
                f"@learner.heads={heads} does not divide @learner.width={self.width}", "@learner.heads=1"
            )

    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> Tokens:  # noqa: ARG002
        """Return the keys and values of the support sets."""
        n = features.shape[1]
        seen: Tensor | None
        if self.causal:
            pairs = torch.stack([self.embed_input(features), self.embed_target(targets)], 2)
            tokens = pairs.flatten(1, 2) + self.positions[: 2 * n]
            # Padding comes last, so no other token attends to padding.
            seen = tokens.new_ones(2 * n, 2 * n, dtype=torch.bool).tril()[None, None]
            mask = None if mask is None else mask.repeat_interleave(2, 1)
        else:
            tokens = self.embed_pair(torch.cat([features, targets], 2))
            seen = None if mask is None else mask[:, None, None]
        after, caches = self.transformer.read(tokens, seen)
        lengths = features.new_full((len(features),), tokens.shape[1]) if mask is None else mask.sum(1)
        return Tokens(caches, mask, lengths.long(), self.head(after[:, ::2]) if self.causal else None)

    def outputs(self, read: Tokens, features: Tensor) -> Tensor:
        """Map embedded queries [T, m, features] to outputs [T, m, outputs_size]."""
        if self.causal:
            queries = self.embed_input(features) + self.positions[read.lengths][:, None]
        else:
            unknown = features.new_zeros(*features.shape[:2], self.output_size)
            queries = self.embed_pair(torch.cat([features, unknown], 2))
        after = self.transformer.answer(queries, read.caches, read.mask, itself=self.causal)
        result: Tensor = self.head(after)
        return result

    def support_outputs(self, read: Tokens, features: Tensor) -> Tensor:
        """Return the outputs for the support set, [T, n, outputs_size]; causal: from earlier examples."""
        return super().support_outputs(read, features) if read.outputs is None else read.outputs

    def learn(self, features: Tensor, tasks: Tasks) -> Any:
        """Return the support sets as read by the network; at test, once for each view of the ensemble."""
        if self.training or self.ensemble == 1:
            return super().learn(features, tasks)
        read = super().learn
        found = views(self.ensemble, features, tasks, self.output_size if self.kind == "classes" else None)
        return [(view, read(view.inputs(features), view.tasks(tasks))) for view in found]

    def answer(self, predictor: Any, features: Tensor) -> Predictions:
        """Map embeddings [T, m, features] to predictions."""
        if isinstance(predictor, Tokens):
            return super().answer(predictor, features)
        outputs = [view.outputs(self.outputs(read, view.inputs(features))) for view, read in predictor]
        return self.predictions(torch.stack(outputs, 2))

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError as OnePassLearner does, and for a support set with too many examples."""
        super().check(tasks)
        if self.most is not None and len(tasks.support) > self.most:
            raise ConfigError(
                f"@learner.positions={self.most}: a support set has {len(tasks.support)} examples",
                f"@learner.positions={len(tasks.support)}",
            )
