"""metarun's own kernels against torch's operations, in float64 and float32, and what they leave to torch."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.gradient.batched import batched_forward, kernels
from metarun.learners.gradient.batched.convolution import convolve
from metarun.learners.gradient.batched.first_block import first_block
from metarun.learners.gradient.batched.normalisation import normalise
from metarun.models import Conv4

pytestmark = pytest.mark.skipif(not kernels.available(), reason="no C++ compiler")

# float64 proves the formulas; in float32 second derivatives of sines differ by this much in torch itself.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 5e-4}

# Tasks, images, height, width, channels in and out: by Winograd's algorithm and directly, one or more images
# a group, one pixel, sizes that leave a rest, odd ones, an odd number of vectors, few channels in.
SHAPES = [
    (2, 3, 14, 14, 16, 32),
    (2, 5, 7, 7, 32, 16),
    (1, 2, 15, 9, 16, 48),
    (2, 2, 3, 3, 16, 16),
    (2, 1, 1, 1, 16, 16),
    (2, 2, 5, 31, 3, 32),
    (3, 2, 6, 6, 1, 48),
]


@pytest.fixture
def enabled() -> Iterator[None]:
    kernels.use(enabled=True)
    yield
    kernels.use(enabled=False)


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def assert_near(given: Tensor, expected: Tensor) -> None:
    scale = expected.abs().max().item() or 1.0
    assert (given - expected).abs().max().item() <= TOLERANCES[given.dtype] * scale


def by_torch(x: Tensor, w: Tensor) -> Tensor:
    """The convolution of x [T, n, H, W, C] with w [T, 3, 3, C, O], one task after another."""
    each = [
        F.conv2d(own.permute(0, 3, 1, 2), weight.permute(3, 2, 0, 1), padding=1).permute(0, 2, 3, 1)
        for own, weight in zip(x, w, strict=True)
    ]
    return torch.stack(each)


def two_derivatives(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a function of out, and of a function of those."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    first = torch.autograd.grad((weights * out.sin()).sum(), inputs, create_graph=True)
    factors = [torch.linspace(0.5, 1, g.numel(), dtype=g.dtype).view(g.shape) for g in first]
    second = torch.autograd.grad(
        sum((f * g.sin()).sum() for f, g in zip(factors, first, strict=True)), inputs
    )
    return [*first, *second]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_and_both_derivatives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    tasks, images, height, width, inputs, outputs = shape
    x = randn(tasks, images, height, width, inputs, dtype=dtype)
    w = randn(tasks, 3, 3, inputs, outputs, seed=1, dtype=dtype).requires_grad_()
    variables = [w]
    if inputs % kernels.LANES == 0:
        variables.append(x.requires_grad_())
    given, expected = convolve(x, w, kernels.Convolution3x3()), by_torch(x, w)
    assert_near(given, expected)
    for one, other in zip(
        two_derivatives(given, variables), two_derivatives(expected, variables), strict=True
    ):
        assert_near(one, other)


def test_tasks_may_share_weights_and_few_channels_may_have_derivatives() -> None:
    x, w = randn(3, 2, 6, 5, 3).requires_grad_(), randn(3, 3, 3, 32, seed=1).requires_grad_()
    shared = w.expand(3, *w.shape)
    given = convolve(*kernels.padded(x, shared), kernels.Convolution3x3())
    expected = by_torch(x, shared)
    assert_near(given, expected)
    for one, other in zip(two_derivatives(given, [x, w]), two_derivatives(expected, [x, w]), strict=True):
        assert_near(one, other)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 2), (15, 14)])
def test_norms_and_both_derivatives(
    pool: bool, relu: bool, size: tuple[int, int], dtype: torch.dtype
) -> None:
    y = 3 + randn(2, 3, *size, 32, dtype=dtype)
    gamma, beta = randn(2, 32, seed=1, dtype=dtype), randn(2, 32, seed=2, dtype=dtype)  # γ of both signs
    if not pool:
        gamma[0, 0] = 0  # divides nothing by zero
    inputs = [each.requires_grad_() for each in (y, gamma, beta)]
    given, expected = (
        normalise(*inputs, kernels.PerTask(1e-5, pool, relu)),
        norm_by_torch(*inputs, pool, relu),
    )
    assert_near(given, expected)
    for one, other in zip(two_derivatives(given, inputs), two_derivatives(expected, inputs), strict=True):
        assert_near(one, other)


def norm_by_torch(y: Tensor, gamma: Tensor, beta: Tensor, pool: bool, relu: bool) -> Tensor:
    outputs = []
    for own, scale, shift in zip(y, gamma, beta, strict=True):
        z = F.batch_norm(own.permute(0, 3, 1, 2), None, None, scale, shift, training=True)
        z = F.max_pool2d(z, 2) if pool else z
        outputs.append((F.relu(z) if relu else z).permute(0, 2, 3, 1))
    return torch.stack(outputs)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(4, 6, 1), (5, 7, 3), (15, 14, 2)])
def test_the_first_block_and_both_derivatives(
    pool: bool, relu: bool, size: tuple[int, int, int], dtype: torch.dtype
) -> None:
    x = randn(2, 3, *size, dtype=dtype)
    inputs = [
        each.requires_grad_()
        for each in (
            randn(2, 3, 3, size[-1], 32, seed=1, dtype=dtype),
            randn(2, 32, seed=2, dtype=dtype),
            randn(2, 32, seed=3, dtype=dtype),
        )
    ]
    w, gamma, beta = inputs
    given = first_block(x, w, gamma, beta, kernels.PerTask(1e-5, pool, relu))
    expected = norm_by_torch(by_torch(x, w), gamma, beta, pool, relu)
    assert_near(given, expected)
    for one, other in zip(two_derivatives(given, inputs), two_derivatives(expected, inputs), strict=True):
        assert_near(one, other)


def test_statistics_of_a_large_mean_lose_no_digits() -> None:
    y = 1e4 + randn(1, 4, 30, 30, 16, dtype=torch.float32)
    one, zero = torch.ones(1, 16), torch.zeros(1, 16)
    out = normalise(y, one, zero, kernels.PerTask(1e-5, pool=False, relu=False))
    expected = norm_by_torch(y.double(), one.double(), zero.double(), pool=False, relu=False)
    torch.testing.assert_close(out.double(), expected, atol=2e-3, rtol=0)  # y itself has steps of 1e-3


@pytest.mark.parametrize(
    "w", [torch.zeros(2, 3, 3, 4, 16), torch.zeros(3, 3, 3, 16, 16), torch.zeros(2, 3, 3, 16, 16).double()]
)
def test_what_does_not_fit_is_an_error_and_no_memory_of_others(w: Tensor) -> None:
    """Other channels, other tasks, another precision."""
    x, scale = torch.zeros(2, 1, 4, 4, 16), torch.ones(2, 16)
    with pytest.raises(RuntimeError, match=r"a convolution of torch.float32 \[2, 1, 4, 4, 16\] cannot have"):
        convolve(x, w, kernels.Convolution3x3())
    with pytest.raises(RuntimeError, match="cannot have weights"):
        first_block(x, w, scale, scale, kernels.PerTask(1e-5, pool=False, relu=False))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """A diverging task is noticed by its loss."""
    x, w = randn(2, 2, 6, 6, 16), randn(2, 3, 3, 16, 16, seed=1)
    x[1, 0, 2, 3, 5] = bad
    y = convolve(x, w, kernels.Convolution3x3())
    ones, zeros = torch.ones(2, 16, dtype=x.dtype), torch.zeros(2, 16, dtype=x.dtype)
    out = normalise(y, ones, zeros, kernels.PerTask(1e-5, pool=True, relu=True))
    assert out[0].isfinite().all()  # tasks do not mix
    assert not out[1].isfinite().any()


MODELS = {
    "conv4": Conv4(input_shape=(1, 28, 28), output_size=5, filters=16),
    "conv4 of odd sizes": Conv4(input_shape=(3, 17, 21), output_size=3, filters=[16, 48, 32, 16]),
    "conv4 without pools": Conv4(
        input_shape=(3, 8, 9), output_size=3, filters=16, halvings=0, features="mean"
    ),
    "a norm without weights": nn.Sequential(
        *(nn.Conv2d(2, 16, 3, padding=1), nn.BatchNorm2d(16, affine=False), nn.MaxPool2d(2)),
        *(nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.AvgPool2d(2)),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_network_is_that_of_torchs_operations(name: str, enabled: None) -> None:
    model = MODELS[name].double()
    forward = batched_forward(model)
    assert forward is not None
    assert forward.has_kernels
    shape = {"conv4": (1, 28, 28), "conv4 of odd sizes": (3, 17, 21), "conv4 without pools": (3, 8, 9)}
    x = randn(2, 3, *shape.get(name, (2, 8, 8)))
    parameters = {
        n: randn(2, *p.shape, seed=i).requires_grad_() for i, (n, p) in enumerate(model.named_parameters())
    }
    given = forward(parameters, x)
    kernels.use(enabled=False)
    expected = forward(parameters, x)
    assert not torch.equal(given, expected)  # the kernels have computed it
    assert_near(given, expected)
    used = [p for n, p in parameters.items() if not n.endswith("conv.bias") and n != "0.bias"]
    for one, other in zip(two_derivatives(given, used), two_derivatives(expected, used), strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize(
    "model",
    [
        Conv4(input_shape=(1, 16, 16), output_size=5, filters=20),  # no multiple of LANES
        Conv4(input_shape=(1, 16, 16), output_size=5, filters=16, halve="stride"),
        Conv4(input_shape=(1, 16, 16), output_size=5, filters=16, norm="group"),
        nn.Sequential(nn.Conv2d(2, 16, 3, padding=1), nn.Flatten(), nn.Linear(64, 2)),
        nn.Sequential(nn.Linear(4, 16), nn.ReLU()),
    ],
)
def test_other_networks_are_left_to_torch(model: nn.Module) -> None:
    forward = batched_forward(model)
    assert forward is not None
    assert not forward.has_kernels


def test_nothing_that_is_traced_is_taken(enabled: None) -> None:
    """A kernel would compute the traced example alone, and the trace would keep it as a constant."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    x = torch.zeros(2, 3)
    assert kernels.takes(x)
    assert not kernels.takes(x.half())
    taken = []

    def look(x: Tensor) -> Tensor:
        taken.append(kernels.takes(x))
        return x + 1

    torch.func.vmap(look)(x)
    make_fx(look)(x)
    with FakeTensorMode() as mode:
        look(mode.from_tensor(x))
    assert taken == [False, False, False]
    kernels.use(enabled=False)
    assert not kernels.takes(x)
