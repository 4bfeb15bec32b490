"""Convolution of T tasks at once with weights of their own; its derivatives are convolutions, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Stride, padding, dilation and groups."""


def convolve(x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
    """Return the convolution of x [n, T·C, H, W] with w [T·O, C, h, w] in T groups: [n, T·O, H′, W′].

    Tasks are groups of channels: in channels_last, one grouped convolution for all tasks is as fast as a
    plain convolution. The second derivatives are four convolutions of the same shapes. autograd's own second
    derivatives use convolutions with channels as the batch, which take the libraries twice the time.
    """
    result: Tensor = _Convolution.apply(x, w, geometry)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.geometry = geometry
        stride, padding, dilation, groups = geometry
        y: Tensor = torch.ops.aten.convolution(x, w, None, stride, padding, dilation, False, [0, 0], groups)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        gx, gw = _ConvolutionBackward.apply(g, x, w, ctx.geometry, list(ctx.needs_input_grad[:2]))
        return gx, gw, None


class _ConvolutionBackward(torch.autograd.Function):
    """The gradients gx of x and gw of w, if needed; gx is linear in g and w, and gw is linear in g and x."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, geometry: Geometry, need: list[bool]
    ) -> tuple[Any, Any]:
        ctx.save_for_backward(g, x, w)
        ctx.geometry = geometry
        ctx.set_materialize_grads(False)
        stride, padding, dilation, groups = geometry
        gx, gw, _ = torch.ops.aten.convolution_backward(
            g, x, w, None, stride, padding, dilation, False, [0, 0], groups, [*need, False]
        )
        return gx, gw

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Any:
        """Map cotangents u of gx and v of gw to those of g, x and w."""
        g, x, w = ctx.saved_tensors
        need_g, need_x, need_w = ctx.needs_input_grad[:3]
        of_g = of_x = of_w = None
        if need_g:
            terms = [
                convolve(a, b, ctx.geometry) for a, b in ((u, w), (x, v)) if not (a is None or b is None)
            ]
            of_g = sum(terms[1:], start=terms[0]) if terms else None
        if v is not None and need_x:
            of_x, _ = _ConvolutionBackward.apply(g, x, v, ctx.geometry, [True, False])
        if u is not None and need_w:
            _, of_w = _ConvolutionBackward.apply(g, u, w, ctx.geometry, [False, True])
        return of_g, of_x, of_w, None, None
