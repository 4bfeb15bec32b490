"""The hand-written derivatives against finite differences and torch's own composition, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from metarun.learners.gradient.batched.convolution import Grouped, convolve
from metarun.learners.gradient.batched.normalisation import PerChannel, normalise

GEOMETRIES = [
    ((1, 1), (1, 1), (1, 1), 1),
    ((2, 2), (1, 1), (1, 1), 2),
    ((1, 2), (0, 2), (2, 1), 2),
]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)])
def test_convolution_twice(geometry: tuple, needs: tuple[bool, bool]) -> None:
    groups = geometry[-1]
    x, w = randn(2, 2 * groups, 5, 6), randn(3 * groups, 2, 3, 3, seed=1)
    x.requires_grad_(needs[0])
    w.requires_grad_(needs[1])
    by = Grouped(*geometry)
    torch.testing.assert_close(convolve(x, w, by), F.conv2d(x, w, None, *geometry))
    assert gradcheck(lambda x, w: convolve(x, w, by), (x, w))
    assert gradgradcheck(lambda x, w: convolve(x, w, by), (x, w))


IMAGES, ROWS = [(2, 3, 4, 5), (2, 3, 4, 4)], [(4, 3), (3, 2, 5)]


@pytest.mark.parametrize(
    ("pool", "shape"), [*((False, each) for each in [*IMAGES, *ROWS]), *((True, each) for each in IMAGES)]
)
@pytest.mark.parametrize("relu", [False, True])
def test_normalisation_twice(pool: bool, relu: bool, shape: tuple[int, ...]) -> None:
    y, beta = randn(*shape).requires_grad_(), randn(shape[1], seed=2).requires_grad_()
    gamma = randn(shape[1], seed=1).abs().requires_grad_()

    def ours(y: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return normalise(y, gamma, beta, PerChannel(1e-5, pool, relu))

    z = F.batch_norm(y, None, None, gamma, beta, training=True)
    z = F.max_pool2d(z, 2) if pool else z
    torch.testing.assert_close(ours(y, gamma, beta), F.relu(z) if relu else z)
    assert gradcheck(ours, (y, gamma, beta))
    assert gradgradcheck(ours, (y, gamma, beta))


def test_normalisation_without_a_scale_has_derivatives_too() -> None:
    """γ = 0 divides nothing by zero."""
    y, gamma, beta = randn(2, 3, 4, 4), torch.zeros(3, dtype=torch.float64), randn(3, seed=2)
    inputs = tuple(each.requires_grad_() for each in (y, gamma, beta))
    assert gradgradcheck(lambda *xs: normalise(*xs, PerChannel(1e-5, pool=False, relu=True)), inputs)


def test_third_derivatives_are_refused_and_not_wrong() -> None:
    y, gamma, beta = (each.requires_grad_() for each in (randn(4, 3), randn(3).abs(), randn(3, seed=2)))
    out = normalise(y, gamma, beta, PerChannel(1e-5, pool=False, relu=False)).sin().sum()
    (first,) = torch.autograd.grad(out, y, create_graph=True)
    (second,) = torch.autograd.grad(first.sin().sum(), y, create_graph=True)
    with pytest.raises(NotImplementedError, match="third derivatives"):
        torch.autograd.grad(second.sin().sum(), y)


def test_channels_last_in_channels_last_out() -> None:
    """The fast kernels are those of channels_last: nothing on the way may fall back to the other layout."""
    last = {"memory_format": torch.channels_last}
    y = randn(2, 4, 6, 6).to(**last).requires_grad_()
    w = randn(4, 4, 3, 3).requires_grad_()
    out = convolve(y, w, Grouped(*GEOMETRIES[0]))
    out = normalise(out, y.new_ones(4), y.new_zeros(4), PerChannel(1e-5, pool=True, relu=True))
    (first,) = torch.autograd.grad(out.sin().sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(first.sin().sum(), y)
    assert all(each.is_contiguous(**last) for each in (out, first, second))
