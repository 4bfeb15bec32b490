"""Batch norm, max-pooling and ReLU as one function whose second derivative costs a few passes over memory."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from metarun.errors import MetarunError

_HALVES = ([2, 2], [2, 2], [0, 0], [1, 1], False)

Saved = tuple[Any, ...]
"""Tensors, or None where there is none."""


class Normalisation(Protocol):
    """out = relu(max-pool(γ ŷ + β)) with ŷ = (y − μ) / √(σ² + eps), and its first two derivatives.

    With h = g where ReLU is active: dβ = Σ h, dγ = Σ h p̂, dy = place(a h) − a/n · (dβ + dγ ŷ). p̂ are the
    normalised pooled entries, a = γ r, r = 1/√(σ² + eps), and n entries share a channel.
    """

    def forward(self, y: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Saved]:
        """Return out, and what `backward` needs besides g, y and γ."""

    def backward(
        self, g: Tensor, y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Saved]:
        """Return dy, dγ and dβ, and what `twice` needs besides y and γ."""

    def twice(
        self, cotangents: tuple[Tensor, Tensor, Tensor], y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map cotangents of dy, dγ and dβ to those of g, y and γ."""


def normalise(y: Tensor, gamma: Tensor, beta: Tensor, normalisation: Normalisation) -> Tensor:
    """Return the normalised, perhaps pooled and rectified y; statistics are those of the current batch.

    Raises:
        MetarunError: there is only one value per channel, which has no variance.
    """
    check_can_normalise(y.numel(), gamma)
    result: Tensor = _Normalise.apply(y, gamma, beta, normalisation)
    return result


def check_can_normalise(entries: int, gamma: Tensor) -> None:
    """Raise MetarunError if there is only one value per channel, which has no variance."""
    if entries == gamma.numel():
        raise MetarunError(
            "a batch norm cannot normalise one example by itself",
            "a larger @source.shot or @loop.batch, or @model.norm=group",
        )


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, gamma: Tensor, beta: Tensor, normalisation: Normalisation) -> Tensor:
        out, saved = normalisation.forward(y, gamma, beta)
        ctx.normalisation = normalisation
        ctx.save_for_backward(y, gamma, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        y, gamma, *saved = ctx.saved_tensors
        return *_NormaliseBackward.apply(g, y, gamma, ctx.normalisation, *saved), None


class _NormaliseBackward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, g: Tensor, y: Tensor, gamma: Tensor, normalisation: Normalisation, *saved: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradients, kept = normalisation.backward(g, y, gamma, saved)
        ctx.normalisation = normalisation
        ctx.save_for_backward(y, gamma, *kept)
        ctx.others = len(saved)
        return gradients

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        """Map cotangents of dy, dγ and dβ to those of g, y and γ."""
        found = _NormaliseTwice.apply(ctx.normalisation, *cotangents, *ctx.saved_tensors)
        return *found, None, *[None] * ctx.others


class _NormaliseTwice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ARG004
        normalisation: Normalisation,
        u: Tensor,
        u_gamma: Tensor,
        u_beta: Tensor,
        y: Tensor,
        gamma: Tensor,
        *saved: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return normalisation.twice((u, u_gamma, u_beta), y, gamma, saved)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        # torch's once_differentiable does not raise if autograd.grad is called with certain inputs.
        raise NotImplementedError("third derivatives of a batch norm over tasks")


class PerChannel(NamedTuple):
    """A normalisation by torch's operations, over all but the channels of y [n, C, …].

    Pooling is done before the affine map, which gives the same result if no γ is negative. Then only the
    statistics, and one affine pass per derivative, read the unpooled y. Images are in channels_last, where
    these operations are fastest.

    Attributes:
        eps: added to the variance.
        pool: whether 2 × 2 windows are max-pooled; then no γ may be negative.
        relu: whether negative outputs are set to zero.
    """

    eps: float
    pool: bool
    relu: bool

    def forward(self, y: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Saved]:
        """Return out for γ and β [C], and what `backward` needs besides g, y and γ."""
        mu, variance = torch.batch_norm_update_stats(y, None, None, 0.0)
        r = (variance + self.eps).rsqrt_()
        pooled, index = torch.ops.aten.max_pool2d_with_indices(y, *_HALVES) if self.pool else (y, None)
        a = gamma * r
        out = _affine(pooled, a, beta - a * mu)
        if self.relu:
            out = out.relu_()
        return out, (mu, r, pooled, index, out if self.relu else None)

    def backward(
        self, g: Tensor, y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Saved]:
        """Return dy, dγ and dβ, and what `twice` needs besides y and γ."""
        mu, r, pooled, index, out = saved
        h = g if out is None else torch.ops.aten.threshold_backward(g, out, 0)
        dgamma, dbeta = _sums(h, pooled, mu, r)
        n = y.numel() // y.shape[1]
        a = gamma * r
        slope = -a * dgamma * r / n
        shift = -slope * mu - a * dbeta / n
        if index is None:
            dy = _affine(y, slope, shift).addcmul_(h, _wide(a, y))
        else:
            dy = _place(h * _wide(a, y), y, index).add_(_affine(y, slope, shift))
        return (dy, dgamma, dbeta), (*saved, h, dgamma, dbeta)

    def twice(
        self, cotangents: tuple[Tensor, Tensor, Tensor], y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map cotangents of dy, dγ and dβ to those of g, y and γ."""
        mu, r, pooled, index, out, h, dgamma, dbeta = saved
        u, u_gamma, u_beta = cotangents
        n = y.numel() // y.shape[1]
        a = gamma * r
        u_yhat, u_sum = _sums(u, y, mu, r)
        picked = _pick(u, index)
        # ⟨u, dy⟩ = a · inner, in terms of a, h, dγ, dβ and ŷ.
        inner = (picked * h).sum([0, *range(2, y.dim())]) - (dbeta * u_sum + dgamma * u_yhat) / n
        of_dbeta = u_beta - a * u_sum / n
        of_dgamma = u_gamma - a * u_yhat / n

        scale = of_dgamma * r
        of_h = _affine(pooled, scale, of_dbeta - scale * mu).addcmul_(picked, _wide(a, y))
        of_g = of_h if out is None else torch.ops.aten.threshold_backward(of_h, out, 0)

        # dy depends on ŷ directly (weight t), through the pooled entries in dγ, and through μ and r.
        t = -a * dgamma / n
        slope = -(a * inner + t * u_yhat + of_dgamma * dgamma) * r * r / n
        shift = -(t * u_sum + of_dgamma * dbeta) * r / n - slope * mu
        of_y = _affine(y, slope, shift).addcmul_(u, _wide(t * r, y))
        if index is None:
            of_y = of_y.addcmul_(h, _wide(scale, y))
        else:
            of_y = of_y.add_(_place(h * _wide(scale, y), y, index))
        return of_g, of_y, r * inner


def _wide(v: Tensor, y: Tensor) -> Tensor:
    """Return a vector over channels, [C], as [C, 1, …], which broadcasts over y [n, C, …]."""
    return v.view(-1, *[1] * (y.dim() - 2))


def _affine(y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(_wide(shift, y), y, _wide(scale, y))


def _sums(g: Tensor, y: Tensor, mu: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ g·(y − μ)·r and Σ g over all dimensions except channels, in one pass."""
    _, of_gamma, of_beta = torch.ops.aten.native_batch_norm_backward(
        g, y, None, None, None, mu, r, True, 0.0, [False, True, True]
    )
    return of_gamma, of_beta


def _pick(full: Tensor, index: Tensor | None) -> Tensor:
    """Return the entries that max-pooling chose."""
    if index is None:
        return full
    n, channels, height, width = index.shape
    rows = full.permute(0, 2, 3, 1).reshape(n, -1, channels)
    maxima = rows.gather(1, index.permute(0, 2, 3, 1).reshape(n, -1, channels))
    return maxima.view(n, height, width, channels).permute(0, 3, 1, 2)


def _place(pooled: Tensor, y: Tensor, index: Tensor | None) -> Tensor:
    """Put entries back where max-pooling chose them, and zeros elsewhere."""
    if index is None:
        return pooled
    full: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(pooled, y, *_HALVES, index)
    return full
