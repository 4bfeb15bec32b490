"""Shapes, initialisation and layers of the models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.errors import ConfigError
from metarun.models import MLP, Conv4, Linear


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("halve", ["pool", "stride"])
@pytest.mark.parametrize("features", ["flatten", "mean"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40)])
def test_conv4_maps_images_to_outputs(norm: str, halve: str, features: str, shape: tuple[int, ...]) -> None:
    net = Conv4(input_shape=shape, output_size=7, filters=12, norm=norm, halve=halve, features=features)
    assert net(torch.rand(3, *shape)).shape == (3, 7)


def test_conv4_is_the_textbook_composition() -> None:
    """conv → norm → ReLU → max-pool, though the layers here are in an order that costs less."""
    torch.manual_seed(0)
    net = Conv4(input_shape=(1, 28, 28), output_size=5, filters=6)
    for p in net.parameters():
        nn.init.normal_(p)
    x = torch.rand(4, 1, 28, 28)
    expected = x
    for block in net.body:
        expected = nn.functional.max_pool2d(block.norm(block.conv(expected)).relu(), 2)
    torch.testing.assert_close(net(x), net.head(expected.flatten(1)))


def test_conv4_starts_from_xavier_and_zero_biases() -> None:
    net = Conv4(input_shape=(1, 28, 28), output_size=5)
    bound = (6 / (64 * 9 + 64 * 9)) ** 0.5
    weight = net.body.block2.conv.weight
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert net.body.block2.conv.bias.count_nonzero() == 0


@pytest.mark.parametrize("shape", [(1,), (1, 8, 28)])
def test_conv4_refuses_what_it_cannot_halve(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="model=mlp"):
        Conv4(input_shape=shape, output_size=5)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_mlp_maps_anything_to_outputs(norm: str) -> None:
    net = MLP(input_shape=(2, 3), output_size=4, hidden=(10, 6), norm=norm)
    assert net(torch.rand(5, 2, 3)).shape == (5, 4)


def test_mlp_starts_from_a_truncated_normal() -> None:
    net = MLP(input_shape=(1,), output_size=1, hidden=(400, 400))
    weight = net.body.layer2.linear.weight
    assert weight.abs().max() <= 0.02
    assert weight.std().item() == pytest.approx(0.0088, rel=0.02)  # 0.01 cut at two deviations


def test_mlp_without_hidden_layers_is_a_head() -> None:
    assert MLP(input_shape=(3,), output_size=2, hidden=()).head.in_features == 3


def test_linear_starts_from_zero() -> None:
    assert Linear(input_shape=(3,), output_size=2)(torch.rand(4, 3)).count_nonzero() == 0
