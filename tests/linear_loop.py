"""A line that learns by momentum, with everything about it learned, written out by hand in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from metarun.learners import GradientAdaptation, InnerLoop
from metarun.models import Linear
from metarun.rules import LearnedRates
from metarun.tasks import Examples, LinearRegression, Tasks

STEPS = 4


def learner() -> GradientAdaptation:
    model = Linear(input_shape=(1,), output_size=1).double()
    made = GradientAdaptation(
        model=model,
        rule=LearnedRates(lr=0.1, per="all", momentum=0.3),
        loop=InnerLoop(steps=STEPS),
    ).double()
    with torch.no_grad():
        model.head.weight.fill_(0.3)
        model.head.bias.fill_(-0.2)
    return made


def batch() -> Tasks:
    return LinearRegression(shot=4, query=4, dtype=torch.float64).batch("train", 0, 3)


def losses_of_windows(thetas: Sequence[Mapping[str, Tensor]], window: int) -> list[Tensor]:
    """Sum the mean query losses of windows, each with meta-parameters of its own, and its own derivatives.

    φ and its velocity go on from one to the next as values; inner gradients are constants.
    """
    first = thetas[0]
    phi = [first["model.head.weight"].expand(3, 1, 1), first["model.head.bias"].expand(3, 1)]
    velocity = [torch.zeros_like(each) for each in phi]
    sums = []
    for number, own in enumerate(thetas):
        if number:
            phi, velocity = [each.detach() for each in phi], [each.detach() for each in velocity]
        total = torch.zeros((), dtype=torch.float64)
        for _ in range(window):
            here = [each.detach().requires_grad_() for each in phi]
            grads = torch.autograd.grad(_loss(batch().support, *here), here)
            velocity = [own["rule.momenta.all"] * v + g for v, g in zip(velocity, grads, strict=True)]
            phi = [p - own["rule.rates.all"] * v for p, v in zip(phi, velocity, strict=True)]
            total = total + _loss(batch().query, *phi) / STEPS
        sums.append(total)
    return sums


def _loss(part: Examples, weight: Tensor, bias: Tensor) -> Tensor:
    return (part.x * weight + bias[:, None] - part.y).square().mean((1, 2)).sum()
