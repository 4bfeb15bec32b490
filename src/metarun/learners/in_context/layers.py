"""Masked attention and masked means."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Map [T, n, width] to [T, heads, n, width / heads]."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return softmax(q kᵀ / √d) v; zeros for a query whose keys are all masked.

    Args:
        queries: [T, heads, m, d].
        keys: [T, heads, n, d].
        values: [T, heads, n, d].
        mask: broadcasts to [T, heads, m, n], False at keys that a query may not attend to; None: no mask.

    Returns:
        [T, m, heads · d].
    """
    if keys.shape[2] == 0:
        return queries.new_zeros(len(queries), queries.shape[2], queries.shape[1] * values.shape[3])
    if mask is not None:
        blind = ~mask.any(3, keepdim=True)
        mask = mask | blind
    found = F.scaled_dot_product_attention(queries, keys, values, mask)
    if mask is not None:
        found = found.masked_fill(blind, 0.0)
    return found.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head attention, then one layer, each with a residual connection and a norm (arXiv:1810.00825).

    Args:
        width: width of queries, keys, values and results.
        heads: number of heads, each of width / heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Map queries [T, m, width], keys and values [T, n, width] to [T, m, width]; mask [T, n]."""
        queries = self.query(queries)
        q, k, v = (split_heads(x, self.heads) for x in (queries, self.key(keys), self.value(values)))
        found = attend(q, k, v, None if mask is None else mask[:, None, None])
        found = self.first_norm(queries + found)
        result: Tensor = self.second_norm(found + F.relu(self.out(found)))
        return result


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean of x [T, n, width] over examples, without padding, [T, width]; 0 without examples."""
    if mask is None:
        return x.mean(1) if x.shape[1] else x.sum(1)
    return (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
