"""Every fixed rule takes the steps of torch.optim; every rule's derivative is finite differences'."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from metarun.rules import SGD, Adam, LearnedRates, UpdateRule

STEPS = 5
ADAM_GRID = [
    {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps}
    for lr, beta1, beta2, eps in itertools.product([1e-3, 0.1], [0.0, 0.9], [0.9, 0.999], [1e-8, 1e-2])
]


def gradient(p: Tensor) -> Tensor:
    """Of a loss that is not quadratic: Σ p⁴/4 + sin p."""
    return p**3 + p.cos()


def start(tasks: int = 2) -> Tensor:
    return torch.linspace(-1.3, 1.7, tasks * 6, dtype=torch.float64).view(tasks, 2, 3)


def follow(rule: UpdateRule, p: Tensor, steps: int = STEPS) -> Tensor:
    params = {"w": p}
    state = rule.init(params)
    for step in range(steps):
        params, state = rule.update(params, {"w": gradient(params["w"])}, state, step)
    return params["w"]


def follow_torch(optimizer: type[torch.optim.Optimizer], p: Tensor, **options: object) -> Tensor:
    p = p.clone().requires_grad_()
    by_torch = optimizer([p], **options)
    for _ in range(STEPS):
        p.grad = gradient(p.detach())
        by_torch.step()
    return p.detach()


@pytest.mark.parametrize("lr", [0.0, 1e-3, 0.3])
def test_sgd_is_torch_optims(lr: float) -> None:
    torch.testing.assert_close(follow(SGD(lr=lr), start()), follow_torch(torch.optim.SGD, start(), lr=lr))


@pytest.mark.parametrize("options", ADAM_GRID)
def test_adam_is_torch_optims(options: dict[str, float]) -> None:
    expected = follow_torch(
        torch.optim.Adam,
        start(),
        lr=options["lr"],
        betas=(options["beta1"], options["beta2"]),
        eps=options["eps"],
    )
    torch.testing.assert_close(follow(Adam(**options), start()), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "rule", [SGD(lr=0.1), Adam(lr=0.1), Adam(lr=0.1, beta1=0.0)], ids=["sgd", "adam", "adam-beta1=0"]
)
def test_derivative_with_respect_to_the_start_is_finite_differences(rule: UpdateRule) -> None:
    assert torch.autograd.gradcheck(lambda p: follow(rule, p), start().requires_grad_())


def test_meta_sgd_derivative_with_respect_to_rates_is_finite_differences() -> None:
    rule = LearnedRates(lr=0.1).double()
    rule.prepare({"w": start()[0]}, torch.Generator())

    def adapted(rates: Tensor) -> Tensor:
        return torch.func.functional_call(_Follow(rule), {"rule.rates.w": rates}, ())

    assert torch.autograd.gradcheck(adapted, torch.full((2, 3), 0.1, dtype=torch.float64).requires_grad_())


class _Follow(torch.nn.Module):
    """A rule's path as a module, so that its rates can be passed in."""

    def __init__(self, rule: UpdateRule) -> None:
        super().__init__()
        self.rule = rule

    def forward(self) -> Tensor:
        return follow(self.rule, start())


def test_adam_leaves_an_entry_without_gradient_alone_and_differentiable() -> None:
    p = torch.ones(1, 2, dtype=torch.float64, requires_grad=True)
    rule = Adam(lr=0.1)
    params, _ = rule.update({"w": p}, {"w": p * torch.tensor([0.0, 1.0])}, rule.init({"w": p}), 0)
    assert params["w"][0, 0] == 1
    params["w"].sum().backward()
    assert torch.isfinite(p.grad).all()


def test_meta_sgd_rates_start_from_one_draw_of_the_interval() -> None:
    initial = {"a.weight": torch.zeros(50, 50), "b": torch.zeros(7)}
    drawn = []
    for seed in range(200):
        rule = LearnedRates(lr=[0.005, 0.1])
        rule.prepare(initial, torch.Generator().manual_seed(seed))
        values = torch.cat([rate.detach().flatten() for rate in rule.rates.values()])
        assert values.unique().numel() == 1
        assert {rate.shape for rate in rule.rates.values()} == {torch.Size([50, 50]), torch.Size([7])}
        drawn.append(values[0].item())
    assert 0.005 <= min(drawn) < 0.01
    assert 0.095 < max(drawn) <= 0.1
    assert abs(sum(drawn) / len(drawn) - 0.0525) < 0.006


def test_meta_sgd_rates_start_from_a_number() -> None:
    rule = LearnedRates(lr=0.05)
    rule.prepare({"w": torch.zeros(3)}, torch.Generator())
    assert rule.rates["w"].tolist() == pytest.approx([0.05] * 3)
