"""Twenty-odd small networks as users write them, none of them a plain sequence of layers that metarun knows.

Inputs are [n, 6, 4] (a sequence, an image of one row, or 24 numbers), or tokens [n, 6]; outputs are [n, 2].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Headed(nn.Module):
    """A body, to be written, and a head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 2)

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class SharedLayer(Headed):
    """One layer registered under two names and called twice."""

    def __init__(self) -> None:
        super().__init__(8)
        self.first, again = nn.Linear(24, 8), nn.Linear(8, 8)
        self.twice = nn.Sequential(nn.Tanh(), again, nn.Tanh(), again, nn.Tanh())

    def body(self, x: Tensor) -> Tensor:
        return self.twice(self.first(x.flatten(1)))


class CalledTwice(Headed):
    """The same function, with the layer registered once."""

    def __init__(self) -> None:
        super().__init__(8)
        self.first, self.again = nn.Linear(24, 8), nn.Linear(8, 8)

    def body(self, x: Tensor) -> Tensor:
        return self.again(self.again(self.first(x.flatten(1)).tanh()).tanh()).tanh()


class TiedWeights(Headed):
    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b, self.c = nn.Linear(24, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.c.weight = self.b.weight

    def body(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x.flatten(1)).tanh()).tanh()).tanh()


class Residual(Headed):
    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b = nn.Linear(24, 8), nn.Linear(8, 8)

    def body(self, x: Tensor) -> Tensor:
        h = self.a(x.flatten(1)).tanh()
        return h + self.b(h).tanh()


class ResidualImages(Headed):
    def __init__(self) -> None:
        super().__init__(3)
        self.a, self.b = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def body(self, x: Tensor) -> Tensor:
        h = self.a(x[:, None]).tanh()
        return (h + self.b(h).tanh()).mean((2, 3))


class TwoInputs(Headed):
    """Two towers, each on a part of the input."""

    def __init__(self) -> None:
        super().__init__(8)
        self.left, self.right = nn.Linear(12, 4), nn.Linear(12, 4)

    def body(self, x: Tensor) -> Tensor:
        left, right = x.flatten(1).chunk(2, 1)
        return torch.cat([self.left(left).tanh(), self.right(right).tanh()], 1)


class Normed(Headed):
    def __init__(self, norm: nn.Module) -> None:
        super().__init__(8)
        self.a, self.norm = nn.Conv1d(6, 8, 2), norm

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.a(x)).tanh().mean(2)


class WeightNorm(Headed):
    def __init__(self, wrap: Callable[[nn.Module], nn.Module]) -> None:
        super().__init__(8)
        self.a = wrap(nn.Linear(24, 8))

    def body(self, x: Tensor) -> Tensor:
        return self.a(x.flatten(1)).tanh()


class Recurrent(Headed):
    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__(5 * (2 if options.get("bidirectional") else 1))
        self.cells = kind(4, 5, batch_first=True, **options)  # type: ignore[arg-type]

    def body(self, x: Tensor) -> Tensor:
        return self.cells(x)[0].mean(1)


class Cell(Headed):
    def __init__(self) -> None:
        super().__init__(5)
        self.cell = nn.LSTMCell(4, 5)

    def body(self, x: Tensor) -> Tensor:
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        assert state is not None
        return state[0]


class Attention(Headed):
    """Scaled dot-product attention with two heads, [n, heads, length, width]: fused kernels take these."""

    def __init__(self) -> None:
        super().__init__(4)
        self.project = nn.Linear(4, 12)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = (each.unflatten(-1, (2, 2)).transpose(1, 2) for each in self.project(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2).mean(1)


class MultiheadAttention(Headed):
    def __init__(self) -> None:
        super().__init__(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


class Transformer(Headed):
    def __init__(self) -> None:
        super().__init__(4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation="gelu", batch_first=True)

    def body(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(1)


class Embedding(Headed):
    """Tokens [n, 6] to a bag of embeddings."""

    def __init__(self) -> None:
        super().__init__(4)
        self.embedding = nn.Embedding(7, 4)

    def body(self, x: Tensor) -> Tensor:
        return self.embedding(x).mean(1).tanh()


class Gated(Headed):
    """A bilinear layer and a parameter of the network's own."""

    def __init__(self) -> None:
        super().__init__(4)
        self.bilinear, self.scale = nn.Bilinear(12, 12, 4), nn.Parameter(torch.ones(4))

    def body(self, x: Tensor) -> Tensor:
        left, right = x.flatten(1).chunk(2, 1)
        return self.scale * self.bilinear(left, right).tanh()


class ListOfLayers(Headed):
    def __init__(self) -> None:
        super().__init__(4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def body(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x.mean(1)


class Frozen(Headed):
    """A layer that its user has frozen."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a, self.b = nn.Linear(24, 8).requires_grad_(False), nn.Linear(8, 8)

    def body(self, x: Tensor) -> Tensor:
        return self.b(self.a(x.flatten(1)).tanh()).tanh()


class Buffered(Headed):
    """A buffer that is read, and never written."""

    def __init__(self) -> None:
        super().__init__(8)
        self.a = nn.Linear(24, 8)
        self.register_buffer("mean", torch.full((24,), 0.1))

    def body(self, x: Tensor) -> Tensor:
        return self.a(x.flatten(1) - self.mean).tanh()


ZOO: dict[str, Callable[[], nn.Module]] = {
    "shared layer": SharedLayer,
    "called twice": CalledTwice,
    "tied weights": TiedWeights,
    "residual": Residual,
    "residual images": ResidualImages,
    "two inputs": TwoInputs,
    "batch norm": lambda: Normed(nn.BatchNorm1d(8, track_running_stats=False)),
    "group norm": lambda: Normed(nn.GroupNorm(2, 8)),
    "instance norm": lambda: Normed(nn.InstanceNorm1d(8, affine=True)),
    "weight norm": lambda: WeightNorm(nn.utils.parametrizations.weight_norm),
    "weight norm by hooks": lambda: WeightNorm(nn.utils.weight_norm),
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm, two layers, both ways": lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "lstm cell": Cell,
    "attention": Attention,
    "multihead attention": MultiheadAttention,
    "transformer": Transformer,
    "embedding": Embedding,
    "bilinear": Gated,
    "list of layers": ListOfLayers,
    "frozen layer": Frozen,
    "buffer": Buffered,
}
