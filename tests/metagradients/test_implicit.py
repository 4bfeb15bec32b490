"""Conjugate gradients against a direct solve, and the implicit meta-gradient at the inner optimum."""

from __future__ import annotations

import pytest
import torch
from plain_loop import by_engine, network, task_batch, worst
from torch import Tensor

from metarun.errors import ConfigError, with_keys
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, Implicit
from metarun.metagradients.implicit import conjugate_gradients
from metarun.rules import SGD, LearnedRates, Momentum, UpdateRule


def learner(
    model: str = "linear",
    steps: int = 400,
    proximal: float = 2.0,
    rule: UpdateRule | None = None,
    adapts: str = "all",
    **loop: int,
) -> GradientAdaptation:
    made = GradientAdaptation(
        model=network(model),
        rule=rule or SGD(lr=0.05),
        loop=InnerLoop(steps=steps, **loop),
        proximal=proximal,
        adapts=adapts,
    )
    return made.double()


def test_conjugate_gradients_solve_each_task() -> None:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 6, 6, generator=generator, dtype=torch.float64)
    matrix = root @ root.mT + torch.eye(6, dtype=torch.float64)
    right = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    right[2] = 0  # a task with nothing to solve

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        image = (matrix @ torch.cat([v["a"], v["b"]], 1)[..., None]).squeeze(-1)
        return {"a": image[:, :2], "b": image[:, 2:]}

    solved = conjugate_gradients(product, {"a": right[:, :2], "b": right[:, 2:]}, steps=6)
    expected = torch.linalg.solve(matrix, right)
    torch.testing.assert_close(torch.cat([solved["a"], solved["b"]], 1), expected, rtol=1e-8, atol=1e-10)
    more = conjugate_gradients(product, {"a": right[:, :2], "b": right[:, 2:]}, steps=30)
    torch.testing.assert_close(torch.cat([more["a"], more["b"]], 1), expected, rtol=1e-8, atol=1e-10)


def test_linear_regression_by_hand() -> None:
    """At φ* = argmin 1/n ‖Xφ − y‖² + λ/2 ‖φ − θ‖² the meta-gradient is (I + H/λ)⁻¹ g', H = 2/n XᵀX."""
    batch = task_batch("linear", tasks=1)
    made = learner(steps=3000)
    found = by_engine(made, Implicit(cg_steps=2), batch, chunk=1)
    design = lambda x: torch.cat([x[0], torch.ones_like(x[0])], 1)
    support, query = design(batch.support.x), design(batch.query.x)
    hessian = 2 / len(support) * support.T @ support
    theta = torch.stack([made.model.head.weight[0, 0], made.model.head.bias[0]]).detach()
    eye = torch.eye(2, dtype=torch.float64)
    right = 2 / len(support) * support.T @ batch.support.y[0, :, 0] + 2.0 * theta
    phi = torch.linalg.solve(hessian + 2.0 * eye, right)
    outer = 2 / len(query) * query.T @ (query @ phi - batch.query.y[0, :, 0])
    expected = torch.linalg.solve(eye + hessian / 2.0, outer)
    values = torch.stack([found["model.head.weight"].squeeze(), found["model.head.bias"].squeeze()])
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("model", ["linear", "mlp-tanh"])
def test_is_the_exact_one_at_the_inner_optimum(model: str) -> None:
    # A perceptron's inner loss is convex with so strong a proximal term only.
    options = {"proximal": 20.0, "rule": SGD(lr=0.005)} if model == "mlp-tanh" else {}
    made, batch = learner(model, steps=600, **options), task_batch(model)
    expected = by_engine(made, Exact(), batch, chunk=3)
    found = by_engine(made, Implicit(cg_steps=60), batch, chunk=2)
    assert worst(found, expected) < 1e-6
    one_step = by_engine(made, Implicit(cg_steps=1), batch, chunk=2)
    assert worst(one_step, expected) > 1e-3  # the comparison notices a solution that is none


def test_the_proximal_term_is_part_of_every_inner_step() -> None:
    made, batch = learner("mlp", steps=3, proximal=1.5), task_batch("mlp")
    with torch.no_grad():
        adapted = made.adapt(batch).params
    for t in range(3):
        theta = dict(made.model.named_parameters())
        params = {name: p.detach().requires_grad_() for name, p in theta.items()}
        for _ in range(3):
            predictions = torch.func.functional_call(made.model, params, (batch.support.x[t],))
            loss = (predictions - batch.support.y[t]).square().mean()
            loss = loss + 0.75 * sum((p - theta[n].detach()).square().sum() for n, p in params.items())
            found = torch.autograd.grad(loss, list(params.values()))
            params = {
                n: (p - 0.05 * g).detach().requires_grad_()
                for (n, p), g in zip(params.items(), found, strict=True)
            }
        for name, p in params.items():
            torch.testing.assert_close(adapted[name][t], p.detach())


@pytest.mark.parametrize("model", ["conv4-batch", "conv4-stride-batch"])
def test_images_go_the_same_way_in_chunks(model: str) -> None:
    made, batch = learner(model, steps=3), task_batch(model)
    whole = by_engine(made, Implicit(), batch, chunk=3)
    assert worst(by_engine(made, Implicit(), batch, chunk=1), whole) < 1e-8


def test_damping_is_added_to_lambda() -> None:
    batch = task_batch("linear")
    one, other = learner(steps=0, proximal=2.0), learner(steps=0, proximal=7.0)
    damped = by_engine(one, Implicit(cg_steps=2, damping=5.0), batch, chunk=3)
    assert worst(damped, by_engine(other, Implicit(cg_steps=2), batch, chunk=3)) < 1e-10


def test_learners_without_such_an_optimum_are_refused() -> None:
    for made, message in (
        (learner(proximal=0.0), "type algo=imaml"),
        (learner(rule=LearnedRates(lr=0.1)), "type inner=sgd"),
        (learner(rule=Momentum(lr=0.1, weight_decay=0.1)), r"inner\.weight_decay=0"),
        (learner(adapts="head.bias"), r"algo\.adapts=all"),
        (learner(batch=2), r"inner\.batch=null"),
    ):
        with pytest.raises(ConfigError, match=message), with_keys():
            Implicit().check(made)
    Implicit().check(learner())
