"""A transformer that caches keys and values of the support set, so that queries are processed separately."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.in_context.layers import attend, split_heads

NormPlace = Literal["pre", "post"]
Cache = tuple[Tensor, Tensor]
"""Keys and values of one block, [T, heads, n, width / heads]."""


class Block(nn.Module):
    """Self-attention and a perceptron, each with a residual connection and a layer norm.

    Args:
        width: width of a token.
        heads: attention heads, each of size width / heads.
        hidden: hidden units of the perceptron.
        norm: `pre`: normalise the inputs of attention and perceptron (GPT-2); `post`: normalise the sums
            (Vaswani et al. 2017, arXiv:1706.03762).
    """

    def __init__(self, width: int, heads: int, hidden: int, norm: NormPlace) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def initialise(self, depth: int) -> None:
        """Draw the initial weights for a stack of `depth` blocks: with `pre` as GPT-2's, else as torch's."""
        if self.norm == "post":
            nn.init.xavier_uniform_(self.qkv.weight)
            nn.init.zeros_(self.qkv.bias)
            nn.init.zeros_(self.out.bias)
            return
        for layer in (self.qkv, self.out, self.up, self.down):
            into_sum = layer is self.out or layer is self.down
            nn.init.normal_(layer.weight, std=0.02 / (math.sqrt(2 * depth) if into_sum else 1))
            nn.init.zeros_(layer.bias)

    def _heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(self.first_norm(x) if self.norm == "pre" else x).chunk(3, 2)
        queries, keys, values = (split_heads(part, self.heads) for part in parts)
        return queries, keys, values

    def _rest(self, x: Tensor, found: Tensor) -> Tensor:
        if self.norm == "pre":
            x = x + self.out(found)
            return x + self._perceptron(self.second_norm(x))
        x = self.first_norm(x + self.out(found))
        result: Tensor = self.second_norm(x + self._perceptron(x))
        return result

    def _perceptron(self, x: Tensor) -> Tensor:
        result: Tensor = self.down((F.gelu if self.norm == "pre" else F.relu)(self.up(x)))
        return result

    def read(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Cache]:
        """Map tokens that attend to one another, x [T, n, width], to the same shape, and return their cache.

        Args:
            x: tokens.
            mask: broadcasts to [T, heads, n, n], False where a token may not attend.
        """
        queries, keys, values = self._heads(x)
        return self._rest(x, attend(queries, keys, values, mask)), (keys, values)

    def answer(self, x: Tensor, cache: Cache, mask: Tensor | None, *, itself: bool) -> Tensor:
        """Map queries that attend to the tokens of `cache`, x [T, m, width], to the same shape.

        Args:
            x: queries, which do not attend to one another.
            cache: keys and values of n tokens.
            mask: [T, n], False at padding.
            itself: whether each query also attends to itself.
        """
        queries, own_keys, own_values = self._heads(x)
        keys, values = cache
        seen = None if mask is None else mask[:, None, None]
        if itself:
            tasks, _, n, _ = keys.shape
            seen = x.new_ones(tasks, 1, 1, n, dtype=torch.bool) if seen is None else seen
            alone = torch.eye(x.shape[1], dtype=torch.bool, device=x.device).expand(tasks, 1, -1, -1)
            seen = torch.cat([seen.expand(-1, -1, x.shape[1], -1), alone], 3)
            keys, values = torch.cat([keys, own_keys], 2), torch.cat([values, own_values], 2)
        return self._rest(x, attend(queries, keys, values, seen))


class Transformer(nn.Module):
    """A stack of blocks.

    Args:
        depth: number of blocks.
        width: see Block.
        heads: see Block.
        hidden: see Block.
        norm: see Block; with `pre` weights start as GPT-2's, and a last layer norm follows.
    """

    def __init__(self, depth: int, width: int, heads: int, hidden: int, norm: NormPlace) -> None:
        super().__init__()
        blocks = [Block(width, heads, hidden, norm) for _ in range(depth)]
        self.blocks = nn.ModuleList(blocks)
        self.last_norm = nn.LayerNorm(width) if norm == "pre" else nn.Identity()
        for block in blocks:
            block.initialise(depth)

    def read(self, tokens: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Cache]]:
        """Map tokens [T, n, width] to the same shape, and return keys and values of all blocks; see Block."""
        caches = []
        for block in self.blocks:
            assert isinstance(block, Block)
            tokens, cache = block.read(tokens, mask)
            caches.append(cache)
        return self.last_norm(tokens), caches

    def answer(self, queries: Tensor, caches: list[Cache], mask: Tensor | None, *, itself: bool) -> Tensor:
        """Map queries [T, m, width] to the same shape; see Block."""
        for block, cache in zip(self.blocks, caches, strict=True):
            assert isinstance(block, Block)
            queries = block.answer(queries, cache, mask, itself=itself)
        result: Tensor = self.last_norm(queries)
        return result
