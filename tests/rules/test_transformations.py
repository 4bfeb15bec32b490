"""Rules composed by a user, against torch.optim in float64, and differentiated."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from metarun.rules.transformations import AddDecayedWeights, Chain, ScaleByAdam, ScaleByRms, Trace

STEPS, LR = 6, 0.05
COMPOSED = {
    "adamw": (
        lambda: Chain(ScaleByAdam(0.9, 0.999, 1e-8), AddDecayedWeights(0.1), lr=LR),
        lambda p: torch.optim.AdamW(p, lr=LR, weight_decay=0.1),
    ),
    "adam-l2": (
        lambda: Chain(AddDecayedWeights(0.1), ScaleByAdam(0.9, 0.999, 1e-8), lr=LR),
        lambda p: torch.optim.Adam(p, lr=LR, weight_decay=0.1),
    ),
    "rmsprop-momentum": (
        lambda: Chain(ScaleByRms(0.9, 1e-8, centered=True), Trace(lambda *_: 0.5), lr=LR),
        lambda p: torch.optim.RMSprop(p, lr=LR, alpha=0.9, eps=1e-8, momentum=0.5, centered=True),
    ),
    "nothing": (lambda: Chain(lr=LR), lambda p: torch.optim.SGD(p, lr=LR)),
}


@pytest.mark.parametrize("name", COMPOSED)
def test_a_chain_is_what_torch_has_of_the_same_parts(name: str) -> None:
    make, torchs = COMPOSED[name]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    gradients = torch.randn(STEPS, 5, 3, generator=generator, dtype=torch.float64)
    expected = nn.Parameter(start.clone())
    optimizer = torchs([expected])
    rule, params = make(), {"w": start[None]}
    state = rule.init(params)
    for step, gradient in enumerate(gradients):
        expected.grad = gradient.clone()
        optimizer.step()
        params, state = rule.update(params, {"w": gradient[None]}, state, step)
    torch.testing.assert_close(params["w"][0], expected.detach(), rtol=1e-12, atol=1e-12)


def test_order_matters_and_a_chain_is_differentiable() -> None:
    start = torch.randn(1, 4, dtype=torch.float64, requires_grad=True)
    moved = []
    for name in ("adamw", "adam-l2"):
        rule = COMPOSED[name][0]()
        params, _ = rule.update({"w": start}, {"w": start**3}, rule.init({"w": start}), 0)
        moved.append(params["w"])
    assert not torch.allclose(*moved)
    assert torch.autograd.gradcheck(
        lambda w: COMPOSED["adamw"][0]().update(
            {"w": w}, {"w": w**3}, COMPOSED["adamw"][0]().init({"w": w}), 0
        )[0]["w"],
        start,
    )
