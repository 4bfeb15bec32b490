"""The first block by metarun's own kernels: a convolution of examples, its norm, max-pooling and ReLU as one.

The convolution's output is as large as all other activations together, and with few input channels it is
quickly computed. So it is never stored: every derivative computes it anew, a pair of rows at a time.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from metarun.learners.gradient.batched import kernels
from metarun.learners.gradient.batched.kernels import PerTask


def first_block(x: Tensor, w: Tensor, gamma: Tensor, beta: Tensor, norm: PerTask) -> Tensor:
    """Map examples x [T, n, H, W, C], without derivatives, to the block's output.

    Args:
        x: the examples.
        w: weights [T, 3, 3, C, O].
        gamma: scale [T, O].
        beta: shift [T, O].
        norm: the norm, pooling and ReLU.
    """
    result: Tensor = _First.apply(x, w, gamma, beta, norm)
    return result


class _Facts(ctypes.Structure):
    _fields_ = [("inputs", ctypes.c_int64), ("w_stride", ctypes.c_int64)]


def _facts(x: Tensor, w: Tensor, stride: Any, norm: PerTask) -> tuple[Any, Any]:
    shape = torch.Size((*x.shape[:4], w.shape[-1]))
    return ctypes.byref(_Facts(x.shape[-1], stride)), norm.told(shape)


class _First(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, gamma: Tensor, beta: Tensor, norm: PerTask) -> Tensor:
        kernels.check(x, w, gamma, beta)
        x, gamma, beta = x.contiguous(), gamma.contiguous(), beta.contiguous()
        weights, stride = kernels.dense(w)
        out, index = norm.outputs(torch.Size((*x.shape[:4], w.shape[-1])), x.dtype)
        pooled, mu, r = torch.empty_like(out), torch.empty_like(gamma), torch.empty_like(gamma)
        results = out, pooled, index, mu, r
        kernels.call("first", x.dtype, x, weights, gamma, beta, *results, *_facts(x, w, stride, norm))
        norm.note(mu, r, x[0, ..., 0].numel())
        ctx.norm = norm
        ctx.save_for_backward(x, w, gamma, beta, pooled, mu, r, index)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return None, *_FirstBackward.apply(g, *ctx.saved_tensors, ctx.norm), None


class _FirstBackward(torch.autograd.Function):
    """The derivatives of w, γ and β."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, gamma: Tensor, *saved: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        *others, norm = saved
        g, gamma = g.contiguous(), gamma.contiguous()
        weights, stride = kernels.dense(w)
        gw, dgamma, dbeta = x.new_empty(w.shape), torch.empty_like(gamma), torch.empty_like(gamma)
        read = kernels.saved_places(g, gamma, tuple(others))
        results = gw, dgamma, dbeta
        kernels.call("first_backward", x.dtype, read, x, weights, *results, *_facts(x, w, stride, norm))
        ctx.norm = norm
        ctx.save_for_backward(g, x, w, gamma, *others, dgamma, dbeta)
        return results

    @staticmethod
    def backward(ctx: Any, u: Tensor, u_gamma: Tensor, u_beta: Tensor) -> Any:
        """Map cotangents of gw, dγ and dβ to those of g, w and γ."""
        of_g, of_w, of_gamma = _FirstTwice.apply(ctx.norm, u, u_gamma, u_beta, *ctx.saved_tensors)
        return of_g, None, of_w, of_gamma, *[None] * 6


class _FirstTwice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ARG004
        norm: PerTask,
        u: Tensor,
        u_gamma: Tensor,
        u_beta: Tensor,
        g: Tensor,
        x: Tensor,
        w: Tensor,
        gamma: Tensor,
        *saved: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        *others, dgamma, dbeta = saved
        u, u_gamma, u_beta = u.contiguous(), u_gamma.contiguous(), u_beta.contiguous()
        weights, stride = kernels.dense(w)
        of_g, of_w, of_gamma = torch.empty_like(g), torch.empty_like(u), torch.empty_like(gamma)
        read = (
            kernels.saved_places(g, gamma, tuple(others)),
            kernels.cotangent_places(u_gamma, u_beta, dgamma, dbeta),
        )
        results = of_g, of_w, of_gamma
        kernels.call("first_twice", x.dtype, *read, x, weights, u, *results, *_facts(x, w, stride, norm))
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Any:
        # torch's once_differentiable does not raise if autograd.grad is called with certain inputs.
        raise NotImplementedError("third derivatives of a batch norm over tasks")
