"""Residual networks: sizes as published, forward passes written out, adaptation as in a loop over tasks."""

from __future__ import annotations

import math

import pytest
import torch
from plain_loop import fill, gradients, task_batch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact
from metarun.models import Conv4, ResNet, ResNet12, WideResNet
from metarun.rules import SGD

IMAGENET, COLOUR, GREY = (3, 224, 224), (3, 84, 84), (1, 28, 28)
NARROW = {
    "resnet10": lambda **keys: ResNet(width=3, **keys),
    "resnet12": lambda **keys: ResNet12(widths=(3, 3, 4, 4), **keys),
    "wrn": lambda **keys: WideResNet(depth=10, widen=1, **keys),
}


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # torchvision's ResNet-18 has 11,689,512, with a head of 513,000.
        (lambda: ResNet(input_shape=IMAGENET, output_size=1000, blocks=2), 11_689_512),
        (lambda: ResNet(input_shape=COLOUR, output_size=None, blocks=2), 11_176_512),
        # Half of its blocks: without the second of each stage, two convolutions and norms of equal width.
        (
            lambda: ResNet(input_shape=COLOUR, output_size=None),
            11_176_512 - sum(2 * 9 * w * w + 4 * w for w in (64, 128, 256, 512)),
        ),
        # 12.4 million in the few-shot literature.
        (lambda: ResNet12(input_shape=COLOUR, output_size=None), 12_424_320),
        # 36.5 million with ten outputs (arXiv:1605.07146, table 5).
        (lambda: WideResNet(input_shape=(3, 32, 32), output_size=10), 36_479_194),
    ],
)
def test_sizes_are_those_of_the_papers(network, parameters: int) -> None:
    assert sum(p.numel() for p in network().parameters()) == parameters


def test_embeddings_are_as_large_as_published() -> None:
    assert ResNet(input_shape=COLOUR, output_size=None).features == 512
    assert ResNet12(input_shape=COLOUR, output_size=None).features == 640
    assert ResNet12(input_shape=COLOUR, output_size=None, features="flatten").features == 16_000  # MetaOptNet
    assert WideResNet(input_shape=COLOUR, output_size=None, widen=1).features == 64


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("features", ["mean", "flatten"])
@pytest.mark.parametrize("shape", [GREY, (3, 33, 40)])
@pytest.mark.parametrize("name", NARROW)
def test_images_of_any_shape_are_mapped(name: str, shape: tuple[int, ...], features: str, norm: str) -> None:
    body = NARROW[name](input_shape=shape, output_size=None, features=features, norm=norm)
    assert body(torch.rand(2, *shape)).shape == (2, body.features)
    assert body.features == math.prod(body.feature_shape)
    assert NARROW[name](input_shape=shape, output_size=5, norm=norm)(torch.rand(2, *shape)).shape == (2, 5)


def normed(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True)


def test_resnet_12_is_what_metaoptnet_describes() -> None:
    torch.manual_seed(0)
    net = ResNet12(input_shape=GREY, output_size=None, widths=(2, 3, 4, 5))
    x = y = torch.rand(3, *GREY)
    for block in net.body:
        inner = F.leaky_relu(normed(block.norm1, F.conv2d(y, block.conv1.weight, padding=1)), 0.1)
        inner = F.leaky_relu(normed(block.norm2, F.conv2d(inner, block.conv2.weight, padding=1)), 0.1)
        inner = normed(block.norm3, F.conv2d(inner, block.conv3.weight, padding=1))
        inner = inner + normed(block.shortcut[1], F.conv2d(y, block.shortcut[0].weight))
        y = F.max_pool2d(F.leaky_relu(inner, 0.1), 2)
    torch.testing.assert_close(net(x), y.mean((2, 3)))


def test_a_basic_and_a_preactivation_block_by_hand() -> None:
    torch.manual_seed(0)
    x = torch.rand(3, *GREY)
    block = ResNet(input_shape=GREY, output_size=None, width=2).body.block2_1
    z = torch.rand(3, 2, 8, 8)
    y = F.relu(normed(block.norm1, F.conv2d(z, block.conv1.weight, stride=2, padding=1)))
    y = normed(block.norm2, F.conv2d(y, block.conv2.weight, padding=1))
    y = y + normed(block.shortcut[1], F.conv2d(z, block.shortcut[0].weight, stride=2))
    torch.testing.assert_close(block(z), F.relu(y))
    wide = WideResNet(input_shape=GREY, output_size=None, depth=10, widen=1)
    start = wide.stem(x)
    first = F.relu(normed(wide.body.block1_1.norm1, start))
    y = F.conv2d(first, wide.body.block1_1.conv1.weight, padding=1)
    y = F.conv2d(F.relu(normed(wide.body.block1_1.norm2, y)), wide.body.block1_1.conv2.weight, padding=1)
    torch.testing.assert_close(wide.body.block1_1(start), y + start)  # 16 channels before and after
    block = wide.body.block2_1
    z = torch.rand(3, 16, 8, 8)
    first = F.relu(normed(block.norm1, z))
    y = F.conv2d(first, block.conv1.weight, stride=2, padding=1)
    y = F.conv2d(F.relu(normed(block.norm2, y)), block.conv2.weight, padding=1)
    torch.testing.assert_close(block(z), y + F.conv2d(first, block.shortcut.weight, stride=2))


def test_convolutions_start_as_in_he_et_al() -> None:
    net = ResNet12(input_shape=COLOUR, output_size=None)
    weight = net.body.block4.conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 640)) ** 0.5, rel=0.01)
    assert abs(weight.mean().item()) < 1e-4


@pytest.mark.parametrize("name", NARROW)
def test_adaptation_is_that_of_a_loop_over_tasks(name: str) -> None:
    torch.manual_seed(0)
    net = NARROW[name](input_shape=(1, 16, 16), output_size=3).double()
    tasks = task_batch("conv4", 2)
    learner = GradientAdaptation(model=net, rule=SGD(lr=0.1), loop=InnerLoop(steps=1))
    learner.check(tasks)
    scores = fill(learner, Exact(), tasks, Engine(chunk=2))
    theta, losses = dict(net.named_parameters()), []
    for t in range(2):
        loss = F.cross_entropy(functional_call(net, theta, (tasks.support.x[t],)), tasks.support.y[t])
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        adapted = {n: p - 0.1 * g for (n, p), g in zip(theta.items(), grads, strict=True)}
        losses.append(F.cross_entropy(functional_call(net, adapted, (tasks.query.x[t],)), tasks.query.y[t]))
    torch.testing.assert_close(scores["loss"], torch.stack(losses).detach(), rtol=1e-9, atol=1e-11)
    found = gradients(learner)
    expected = torch.autograd.grad(torch.stack(losses).mean(), list(theta.values()))
    for (parameter, _), gradient in zip(theta.items(), expected, strict=True):
        torch.testing.assert_close(found[f"model.{parameter}"], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", NARROW)
def test_what_is_no_image_or_too_small_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"needs images \[channels, height, width\]"):
        NARROW[name](input_shape=(7,), output_size=5)
    with pytest.raises(ConfigError, match="needs images of at least"):
        NARROW[name](input_shape=(1, 3, 28), output_size=5)


def test_a_depth_between_two_networks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"depth=27 is not 4 \+ 6 n"):
        WideResNet(input_shape=GREY, output_size=5, depth=27)


def test_conv4_may_widen_and_halve_fewer_times() -> None:
    net = Conv4(input_shape=GREY, output_size=None, filters=(2, 3, 4, 5), halvings=2)
    assert [block.conv.out_channels for block in net.body] == [2, 3, 4, 5]
    assert net.feature_shape == (5, 7, 7)
    assert net(torch.rand(2, *GREY)).shape == (2, net.features)
    assert sum(p.numel() for p in Conv4(input_shape=COLOUR, output_size=None).parameters()) == 113_088
    with pytest.raises(ConfigError, match="halves images 3 times"):
        Conv4(input_shape=(1, 4, 4), output_size=5, halvings=3)
