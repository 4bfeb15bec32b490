"""Convolution of T tasks at once with weights of their own; its derivatives are convolutions, too."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Convolution(Protocol):
    """A convolution without bias, and its derivatives."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return y."""

    def backward(
        self, g: Tensor, x: Tensor, w: Tensor, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Map the gradient of y to those of x and w, of which some are needed."""


class Grouped(NamedTuple):
    """torch's convolution of x [n, T·C, H, W] with w [T·O, C, h, w] in T groups.

    Tasks are groups of channels: in channels_last, one grouped convolution for all tasks is as fast as a
    plain convolution.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Return y [n, T·O, H′, W′]."""
        y: Tensor = torch.ops.aten.convolution(
            x, w, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups
        )
        return y

    def backward(
        self, g: Tensor, x: Tensor, w: Tensor, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Map the gradient of y to those of x and w, of which some are needed."""
        gx, gw, _ = torch.ops.aten.convolution_backward(
            *(g, x, w, None, self.stride, self.padding, self.dilation, False, [0, 0], self.groups),
            [*need, False],
        )
        return gx, gw


def convolve(x: Tensor, w: Tensor, convolution: Convolution) -> Tensor:
    """Return the convolution of x with w.

    The second derivatives are four convolutions of the same shapes. autograd's own second derivatives use
    convolutions with channels as the batch, which take the libraries twice the time.
    """
    result: Tensor = _Convolution.apply(x, w, convolution)
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, convolution: Convolution) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.convolution = convolution
        return convolution.forward(x, w)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, w = ctx.saved_tensors
        gx, gw = _ConvolutionBackward.apply(g, x, w, ctx.convolution, tuple(ctx.needs_input_grad[:2]))
        return gx, gw, None


class _ConvolutionBackward(torch.autograd.Function):
    """The gradients gx of x and gw of w, if needed; gx is linear in g and w, and gw is linear in g and x."""

    @staticmethod
    def forward(
        ctx: Any, g: Tensor, x: Tensor, w: Tensor, convolution: Convolution, need: tuple[bool, bool]
    ) -> tuple[Any, Any]:
        ctx.save_for_backward(g, x, w)
        ctx.convolution = convolution
        ctx.set_materialize_grads(False)
        return convolution.backward(g, x, w, need)

    @staticmethod
    def backward(ctx: Any, u: Tensor | None, v: Tensor | None) -> Any:
        """Map cotangents u of gx and v of gw to those of g, x and w."""
        g, x, w = ctx.saved_tensors
        need_g, need_x, need_w = ctx.needs_input_grad[:3]
        of_g = of_x = of_w = None
        if need_g:
            terms = [
                convolve(a, b, ctx.convolution) for a, b in ((u, w), (x, v)) if not (a is None or b is None)
            ]
            of_g = sum(terms[1:], start=terms[0]) if terms else None
        if v is not None and need_x:
            of_x, _ = _ConvolutionBackward.apply(g, x, v, ctx.convolution, (True, False))
        if u is not None and need_w:
            _, of_w = _ConvolutionBackward.apply(g, u, w, ctx.convolution, (False, True))
        return of_g, of_x, of_w, None, None
