"""SNAIL: temporal convolutions and causal attention over the support set followed by one query."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metarun.fields import Count, Size
from metarun.learners.in_context.layers import attend
from metarun.learners.in_context.reading import ReadingLearner
from metarun.system.randomness import Streams


class DenseBlock(nn.Module):
    """Appends tanh(f) σ(g), with f and g causal convolutions with kernel 2 and a dilation.

    Args:
        inputs: input channels.
        filters: channels that are appended.
        dilation: distance between the two examples of a convolution.
    """

    def __init__(self, inputs: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.now, self.before = nn.Linear(inputs, 2 * filters), nn.Linear(inputs, 2 * filters, bias=False)

    def _append(self, x: Tensor, before: Tensor) -> Tensor:
        f, g = (self.now(x) + self.before(before)).chunk(2, 2)
        return torch.cat([x, f.tanh() * g.sigmoid()], 2)

    def read(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map x [T, n, inputs] to [T, n, inputs + filters]; the second result is what `answer` needs."""
        n = x.shape[1]
        before = torch.cat([x.new_zeros(len(x), self.dilation, x.shape[2]), x], 1)[:, :n]
        return self._append(x, before), x

    def answer(self, x: Tensor, stream: Tensor, places: Tensor) -> Tensor:
        """Map queries [T, m, inputs] at positions `places` [T, m] to [T, m, inputs + filters]."""
        index = places - self.dilation
        if stream.shape[1] == 0:
            return self._append(x, torch.zeros_like(x))
        chosen = index.clamp_min(0)[..., None].expand(-1, -1, stream.shape[2])
        before = stream.gather(1, chosen).masked_fill((index < 0)[..., None], 0.0)
        return self._append(x, before)


class AttentionBlock(nn.Module):
    """Appends the result of one attention head, over an example and the examples before it.

    Args:
        inputs: input channels.
        keys: size of queries and keys.
        values: channels that are appended.
    """

    def __init__(self, inputs: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(inputs, keys), nn.Linear(inputs, keys)
        self.value = nn.Linear(inputs, values)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x)[:, None], self.key(x)[:, None], self.value(x)[:, None]

    def read(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Map x [T, n, inputs] to [T, n, inputs + values]; the second result is what `answer` needs."""
        n = x.shape[1]
        queries, keys, values = self._parts(x)
        causal = x.new_ones(n, n, dtype=torch.bool).tril()[None, None]
        return torch.cat([x, attend(queries, keys, values, causal)], 2), (keys, values)

    def answer(self, x: Tensor, cache: tuple[Tensor, Tensor], places: Tensor) -> Tensor:
        """Map queries [T, m, inputs] at positions `places` [T, m] to [T, m, inputs + values]."""
        queries, own_keys, own_values = self._parts(x)
        keys, values = cache
        earlier = torch.arange(keys.shape[2], device=x.device) < places[..., None]  # [T, m, n]
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device).expand(len(x), -1, -1)
        mask = torch.cat([earlier, itself], 2)[:, None]
        found = attend(queries, torch.cat([keys, own_keys], 2), torch.cat([values, own_values], 2), mask)
        return torch.cat([x, found], 2)


@dataclass(frozen=True)
class Read:
    """T support sets after each block, for queries to attend to, and the number of examples, [T]."""

    caches: list[Any]
    counts: Tensor


class SNAIL(ReadingLearner):
    """Attention, temporal convolutions, attention, temporal convolutions, attention, a linear layer.

    Mishra, Rohaninejad, Chen & Abbeel 2018, "A Simple Neural Attentive Meta-Learner", arXiv:1707.03141,
    figure 2 and section 3: a token is an embedding with its label. A query comes after the support set, with
    zeros for its label. Sizes of keys and values are the paper's for Omniglot: 64 and 32, 256 and 128, 512
    and 256, with 128 filters; `scale` divides all sizes.

    Args:
        reach: number of examples that the temporal convolutions span: ⌈log₂ reach⌉ blocks are stacked.
        filters: filters of each temporal convolution.
        scale: divides the sizes of keys and values, and the filters.
        **shared: see ReadingLearner.
    """

    def __init__(self, *, reach: Count = 6, filters: Size = 128, scale: Count = 1, **shared: Any) -> None:
        super().__init__(**shared)
        filters = max(1, filters // scale)
        channels = self.features + self.output_size
        blocks: list[nn.Module] = []
        with Streams(self.seed, self.seeding).drawing("learner"):
            for keys, values in ((64, 32), (256, 128), (512, 256)):
                size = max(1, values // scale)
                blocks.append(AttentionBlock(channels, max(1, keys // scale), size))
                channels += size
                if keys == 512:
                    break
                for i in range(1, max(1, math.ceil(math.log2(reach))) + 1):
                    blocks.append(DenseBlock(channels, filters, 2**i))
                    channels += filters
            self.blocks = nn.ModuleList(blocks)
            self.head = nn.Linear(channels, self.outputs_size)

    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> Read:  # noqa: ARG002
        """Return the support sets after each block; padding comes last, so no example attends to padding."""
        stream, caches = torch.cat([features, targets], 2), []
        for block in self.blocks:
            assert isinstance(block, DenseBlock | AttentionBlock)
            stream, cache = block.read(stream)
            caches.append(cache)
        n = features.shape[1]
        counts = torch.full((len(features),), n, device=features.device) if mask is None else mask.sum(1)
        return Read(caches, counts)

    def outputs(self, read: Read, features: Tensor) -> Tensor:
        """Map queries [T, m, features], each after the support set, to outputs [T, m, outputs_size]."""
        return self._at(read, features, read.counts[:, None].expand(-1, features.shape[1]))

    def support_outputs(self, read: Read, features: Tensor) -> Tensor:
        """Return the outputs for each support example from earlier examples, [T, n, outputs_size]."""
        return self._at(
            read, features, torch.arange(features.shape[1], device=features.device).expand(features.shape[:2])
        )

    def _at(self, read: Read, features: Tensor, places: Tensor) -> Tensor:
        queries = torch.cat([features, features.new_zeros(*features.shape[:2], self.output_size)], 2)
        for block, cache in zip(self.blocks, read.caches, strict=True):
            assert isinstance(block, DenseBlock | AttentionBlock)
            queries = block.answer(queries, cache, places)
        result: Tensor = self.head(queries)
        return result
