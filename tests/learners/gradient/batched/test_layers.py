"""Layers over tasks against one network after another, with their first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarun.errors import MetarunError, with_keys
from metarun.learners.gradient.batched import batched_forward
from metarun.models import MLP, Conv4, Linear

TASKS = 3
TANH = nn.Tanh()
TWICE = nn.Linear(2, 2)


def convolution(*more: nn.Module, **options: object) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 4, 3, **options), *more)


KNOWN = {
    "linear": (Linear(input_shape=(2, 3), output_size=2), (2, 3)),
    "mlp": (MLP(input_shape=(3,), output_size=2, hidden=(5, 4)), (3,)),
    "mlp-batch": (MLP(input_shape=(3,), output_size=2, hidden=(5, 4), norm="batch"), (3,)),
    "mlp-group": (MLP(input_shape=(3,), output_size=2, hidden=(6, 4), norm="group"), (3,)),
    "conv4": (Conv4(input_shape=(1, 16, 17), output_size=3, filters=4), (1, 16, 17)),
    "conv4-mean": (
        Conv4(input_shape=(3, 16, 16), output_size=3, filters=4, halve="stride", features="mean"),
        (3, 16, 16),
    ),
    "conv4-layer": (Conv4(input_shape=(2, 16, 16), output_size=3, filters=4, norm="layer"), (2, 16, 16)),
    "images to images": (convolution(nn.Tanh(), padding=1), (2, 5, 5)),
    "no biases": (convolution(nn.GELU(), nn.Flatten(), nn.Linear(36, 2, bias=False), bias=False), (2, 5, 5)),
    "one activation in two places": (
        nn.Sequential(nn.Linear(3, 4), TANH, nn.Linear(4, 4), TANH, nn.Linear(4, 2)),
        (3,),
    ),
    "in place": (
        nn.Sequential(
            *(nn.Conv2d(2, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
            *(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)),
        ),
        (2, 5, 5),
    ),
    "geometry": (convolution(nn.ELU(), stride=(2, 1), padding=(0, 2), dilation=(1, 2)), (2, 7, 6)),
    "pools": (convolution(nn.AvgPool2d(2), nn.MaxPool2d(2, stride=1)), (2, 8, 8)),
    "pool before the norm": (convolution(nn.MaxPool2d(2), nn.BatchNorm2d(4), nn.ReLU()), (2, 8, 8)),
    "overlapping pool": (convolution(nn.BatchNorm2d(4), nn.MaxPool2d(3, stride=2), nn.ReLU()), (2, 9, 9)),
    "norm alone": (convolution(nn.BatchNorm2d(4)), (2, 5, 5)),
    "norm without weights": (convolution(nn.BatchNorm2d(4, affine=False), nn.MaxPool2d(2)), (2, 6, 6)),
    "norms on rows": (nn.Sequential(nn.BatchNorm1d(3), nn.Sigmoid(), nn.LayerNorm(7, bias=False)), (3, 7)),
    "norms without biases": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, bias=False), nn.GroupNorm(2, 4, bias=False)),
        (2, 5, 5),
    ),
    "pool by a list": (convolution(nn.BatchNorm2d(4), nn.MaxPool2d([2, 2]), nn.ReLU()), (2, 6, 6)),
    "linear on matrices": (nn.Sequential(nn.Linear(7, 2), nn.Softplus(), nn.GroupNorm(1, 3)), (3, 7)),
}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(TASKS, *p.shape, generator=generator, dtype=torch.float64).requires_grad_()
        for name, p in model.named_parameters()
    }


def derivatives(out: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """Of a function of out, and of a function of those; zero where an input has no part in it."""
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    first = torch.autograd.grad(
        (weights * out.sin()).sum(), inputs, create_graph=True, materialize_grads=True
    )
    second = torch.autograd.grad(sum(g.sin().sum() for g in first), inputs, materialize_grads=True)
    return [*first, *second]


@pytest.mark.parametrize("name", KNOWN)
def test_equals_one_network_after_another(name: str) -> None:
    model, shape = KNOWN[name]
    model = model.double()
    forward = batched_forward(model)
    assert forward is not None
    params = parameters(model)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(TASKS, 5, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    inputs = [*params.values(), x]
    found = forward(params, x)
    expected = torch.stack(
        [functional_call(model, {name: p[t] for name, p in params.items()}, (x[t],)) for t in range(TASKS)]
    )
    torch.testing.assert_close(found, expected)
    wanted = derivatives(expected, inputs)
    scale = max(g.abs().max().item() for g in wanted)
    for f, e in zip(derivatives(found, inputs), wanted, strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-12 * scale)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *_: None)
    return model


CHANGES = [lambda x: x.transpose(-1, -2), lambda x: x[:, ::2], lambda x: x.rot90(1, (3, 4))]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("tasks", [1, 2])
def test_images_may_lie_in_memory_in_any_order(change, tasks: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).double()
    forward = batched_forward(model)
    assert forward is not None
    params = {name: p.expand(tasks, *p.shape) for name, p in model.named_parameters()}
    x = change(torch.arange(tasks * 4 * 36.0, dtype=torch.float64).sin().view(tasks, 4, 1, 6, 6))
    torch.testing.assert_close(forward(params, x), torch.stack([model(each) for each in x]))


def replaced() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].forward = lambda x: x + 1
    return model


class Own(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize(
    "model",
    [
        Own(nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(2, 2), Own(nn.ReLU())),
        convolution(OwnNorm(4)),
        nn.Sequential(TWICE, nn.ReLU(), TWICE),
        hooked(),
        replaced(),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
        nn.Sequential(nn.Flatten(2), nn.Linear(2, 2)),
        convolution(padding="same"),
        convolution(padding=1, padding_mode="circular"),
        convolution(groups=2),
    ],
)
def test_leaves_what_it_does_not_know_to_vmap(model: nn.Module) -> None:
    assert batched_forward(model) is None


def test_one_example_has_no_batch_to_be_normalised_by() -> None:
    model, shape = KNOWN["mlp-batch"]
    forward = batched_forward(model.double())
    assert forward is not None
    with pytest.raises(MetarunError, match=r"one example.*data\.shot"), with_keys():
        forward(parameters(model), torch.ones(TASKS, 1, *shape, dtype=torch.float64))
