"""The same block of layers by C++ kernels of metarun's own (native/), on a CPU.

Their tensors are task-major with channels last: images [T, n, H, W, C], weights [T, 3, 3, C, O]. A vector of
the processor holds channels, so numbers of channels are multiples of LANES, except those of examples.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.gradient.batched.normalisation import Saved
from metarun.system.native import library

LANES = 16
"""Numbers of channels are multiples of it: float32 entries of the longest vectors."""

_TYPES = {torch.float32: "f32", torch.float64: "f64"}


class _State:
    enabled = False


def available() -> bool:
    """Return whether the kernels are compiled, or can be, on this machine."""
    return _kernels() is not None


def use(*, enabled: bool) -> bool:
    """Let the kernels compute what they can, in all threads, or nothing; return whether that is possible."""
    _State.enabled = enabled and available()
    return _State.enabled or not enabled


def takes(x: Tensor) -> bool:
    """Return whether the kernels are enabled and take such a tensor, whose operations nothing traces."""
    return (
        _State.enabled
        and x.device.type == "cpu"
        and x.dtype in _TYPES
        and type(x) in (Tensor, nn.Parameter)
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._functorch.is_functorch_wrapped_tensor(x)
    )


@cache
def _kernels() -> ctypes.CDLL | None:
    return library(Path(__file__).with_name("native") / "kernels.cpp")


def check(x: Tensor, w: Tensor, *scales: Tensor) -> None:
    """Raise RuntimeError where tensors do not fit together: the kernels would read what is not theirs.

    Args:
        x: images [T, n, H, W, C].
        w: weights [T, 3, 3, C, O].
        *scales: γ and β, [T, O].
    """
    fits = w.shape[:4] == (len(x), 3, 3, x.shape[-1]) and all(
        s.shape == (len(x), w.shape[-1]) for s in scales
    )
    if not fits or {each.dtype for each in (w, *scales)} != {x.dtype}:
        others = ", ".join(f"{each.dtype} {list(each.shape)}" for each in (w, *scales))
        raise RuntimeError(f"a convolution of {x.dtype} {list(x.shape)} cannot have weights {others}")


def call(name: str, dtype: torch.dtype, *arguments: Any) -> None:
    """Call a kernel; other Python threads run meanwhile."""
    places = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, Tensor) else a for a in arguments]
    getattr(_kernels(), f"{_TYPES[dtype]}_{name}")(*places)


class _Shape(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64) for name in ("tasks", "images", "height", "width", "inputs", "outputs")
    ]


class Convolution3x3(NamedTuple):
    """A convolution with 3 × 3 weights, stride 1 and a border of one zero: Conv4's."""

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Map x [T, n, H, W, C] and w [T, 3, 3, C, O] to y [T, n, H, W, O]."""
        check(x, w)
        x = x.contiguous()
        w, stride = dense(w)
        y = x.new_empty(*x.shape[:4], w.shape[-1])
        call("convolution", x.dtype, x, w, stride, y, _shape(x, y))
        return y

    def backward(
        self, g: Tensor, x: Tensor, w: Tensor, need: tuple[bool, bool]
    ) -> tuple[Tensor | None, Tensor | None]:
        """Map the gradient of y to those of x and w, of which some are needed."""
        g, x = g.contiguous(), x.contiguous()
        gx = gw = None
        shape = _shape(x, g)
        if need[0]:
            weights, stride = dense(w)
            gx = torch.empty_like(x)
            call("convolution_images", x.dtype, g, weights, stride, gx, shape)
        if need[1]:
            gw = x.new_empty(w.shape)
            call("convolution_weights", x.dtype, x, g, gw, shape)
        return gx, gw


def padded(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and weights with channels of zeros up to a multiple of LANES, where x has a gradient."""
    missing = -x.shape[-1] % LANES
    if missing and x.requires_grad:
        return F.pad(x, (0, missing)), F.pad(w, (0, 0, 0, missing))
    return x, w


def expand(p: Tensor, tasks: int) -> Tensor:
    """Return a parameter for T tasks, [T, …]; a convolution's [O, C, 3, 3] in the memory of [3, 3, C, O]."""
    if p.dim() != 4:
        return p.expand(tasks, *p.shape)
    packed = p.permute(2, 3, 1, 0).contiguous()
    return packed.expand(tasks, *packed.shape).permute(0, 4, 3, 1, 2)


def _shape(x: Tensor, y: Tensor) -> Any:
    return ctypes.byref(_Shape(*x.shape, y.shape[-1]))


def dense(w: Tensor) -> tuple[Tensor, ctypes.c_int64]:
    """Return dense weights, and how far apart those of two tasks are: 0 where tasks share them."""
    if w.stride(0) == 0 or len(w) == 1:
        return w[0].contiguous(), ctypes.c_int64(0)
    w = w.contiguous()
    return w, ctypes.c_int64(w.stride(0))


class Norm(ctypes.Structure):
    """What a kernel of a norm is told besides tensors."""

    _fields_ = [
        *((n, ctypes.c_int64) for n in ("tasks", "images", "height", "width", "channels", "pool", "relu")),
        ("eps", ctypes.c_double),
    ]


class _Saved(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("g", "gamma", "beta", "pooled", "mu", "r", "index")]


class _Cotangents(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("u_gamma", "u_beta", "dgamma", "dbeta")]


def saved_places(g: Tensor, gamma: Tensor, saved: Saved) -> Any:
    """Return the places of what derivatives read: β, pooled entries, μ, r and the places of maxima."""
    return _places(_Saved, (g, gamma, *saved))


def cotangent_places(u_gamma: Tensor, u_beta: Tensor, dgamma: Tensor, dbeta: Tensor) -> Any:
    """Return the places of cotangents of dγ and dβ, and of these."""
    return _places(_Cotangents, (u_gamma, u_beta, dgamma, dbeta))


def _places(structure: type[ctypes.Structure], tensors: tuple[Tensor | None, ...]) -> Any:
    """Return a structure of the places of tensors, which the caller keeps while a kernel uses it."""
    return ctypes.byref(structure(*(None if tensor is None else tensor.data_ptr() for tensor in tensors)))


class PerTask(NamedTuple):
    """A normalisation of y [T, n, H, W, C] over all but tasks and channels; see `Normalisation`.

    Attributes:
        eps: added to the variance.
        pool: whether 2 × 2 windows are max-pooled; γ may be negative.
        relu: whether negative outputs are set to zero.
        found: where to note mean and unbiased variance [T, C] of a forward pass; None: nowhere.
    """

    eps: float
    pool: bool
    relu: bool
    found: list[tuple[Tensor, Tensor]] | None = None

    def forward(self, y: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Saved]:
        """Return out for γ and β [T, C], and what `backward` needs besides g, y and γ."""
        y, gamma, beta = y.contiguous(), gamma.contiguous(), beta.contiguous()
        out, index = self.outputs(y.shape, y.dtype)
        pooled = torch.empty_like(out) if self.pool else None
        mu, r = torch.empty_like(gamma), torch.empty_like(gamma)
        call("norm", y.dtype, y, gamma, beta, out, pooled, index, mu, r, self.told(y.shape))
        self.note(mu, r, y[0, ..., 0].numel())
        return out, (beta, y if pooled is None else pooled, mu, r, index)

    def backward(
        self, g: Tensor, y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Saved]:
        """Return dy, dγ and dβ, and what `twice` needs besides y and γ."""
        g, y, gamma = g.contiguous(), y.contiguous(), gamma.contiguous()
        dy, dgamma, dbeta = torch.empty_like(y), torch.empty_like(gamma), torch.empty_like(gamma)
        read = saved_places(g, gamma, saved)
        call("norm_backward", y.dtype, read, y, dy, dgamma, dbeta, self.told(y.shape))
        return (dy, dgamma, dbeta), (*saved, g, dgamma, dbeta)

    def twice(
        self, cotangents: tuple[Tensor, Tensor, Tensor], y: Tensor, gamma: Tensor, saved: Saved
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Map cotangents of dy, dγ and dβ to those of g, y and γ."""
        *others, g, dgamma, dbeta = saved
        u, u_gamma, u_beta = (cotangent.contiguous() for cotangent in cotangents)
        y, gamma = y.contiguous(), gamma.contiguous()
        of_g, of_y, of_gamma = torch.empty_like(g), torch.empty_like(y), torch.empty_like(gamma)
        read = saved_places(g, gamma, tuple(others)), cotangent_places(u_gamma, u_beta, dgamma, dbeta)
        call("norm_twice", y.dtype, *read, y, u, of_g, of_y, of_gamma, self.told(y.shape))
        return of_g, of_y, of_gamma

    def note(self, mu: Tensor, r: Tensor, count: int) -> None:
        """Note mean and unbiased variance of `count` entries, from μ and r = 1/√(σ² + eps)."""
        if self.found is not None:
            self.found.append((mu, (r**-2 - self.eps) * count / (count - 1)))

    def outputs(self, shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Return memory for the outputs of such images, and for the places of the maxima."""
        tasks, images, height, width, channels = shape
        size = (height // 2, width // 2) if self.pool else (height, width)
        out = torch.empty(tasks, images, *size, channels, dtype=dtype)
        return out, torch.empty_like(out, dtype=torch.uint8) if self.pool else None

    def told(self, shape: torch.Size) -> Any:
        """Return what a kernel is told of images of this shape."""
        return ctypes.byref(Norm(*shape, self.pool, self.relu, self.eps))
