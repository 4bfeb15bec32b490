"""Every rule × {exact, first-order} × {mlp, conv4 with norms} against a plain loop over tasks, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from plain_loop import STEPS, TASKS, by_engine, gradients, network, task_batch, worst
from torch import Tensor
from torch.func import functional_call

from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient
from metarun.rules import (
    LSTM,
    MLP,
    SGD,
    Adagrad,
    Adam,
    Hypernet,
    LearnedRates,
    MetaCurvature,
    MetzMLP,
    Momentum,
    RMSProp,
    UpdateRule,
)
from metarun.tasks import Examples, Tasks

EPS = 0.1  # where a gradient is zero (a bias before a batch norm) nothing else keeps rounding small

RULES: dict[str, tuple[type[UpdateRule], dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.05}),
    "momentum": (Momentum, {"lr": 0.05, "weight_decay": 0.1}),
    "nesterov": (Momentum, {"lr": 0.05, "nesterov": True}),
    "adagrad": (Adagrad, {"lr": 0.05, "initial_sum": 0.1}),
    "rmsprop": (RMSProp, {"lr": 0.01, "eps": EPS, "momentum": 0.5, "centered": True}),
    "adam": (Adam, {"lr": 0.05, "eps": EPS}),
    "adam-beta1=0": (Adam, {"lr": 0.05, "eps": EPS, "beta1": 0.0}),
    "adamw": (Adam, {"lr": 0.05, "eps": EPS, "weight_decay": 0.1, "decoupled": True}),
    "learned-rate": (LearnedRates, {"lr": 0.05, "per": "all", "momentum": 0.5, "positive": True}),
    "layer-rates": (LearnedRates, {"lr": 0.05, "per": "layer"}),
    "lslr": (LearnedRates, {"lr": 0.05, "per": "tensor", "per_step": STEPS}),
    "metasgd": (LearnedRates, {"lr": 0.05}),
    "meta-curvature": (MetaCurvature, {"lr": 0.05}),
    "hypernet": (Hypernet, {"lr": 0.05, "momentum": 0.5, "per_step": STEPS}),
    "alfa": (Hypernet, {"lr": 0.05, "features": ["means"], "hidden": None}),
    # Coordinates whose gradient is zero but for rounding: below e⁻² it is not magnified.
    "lstm": (LSTM, {"hidden": 4, "p": 2.0}),
    "mlp": (MLP, {"hidden": 4, "p": 2.0}),
    "metz": (MetzMLP, {"hidden": 4, "step_scale": 0.05}),
}


def make(name: str, model: str) -> GradientAdaptation:
    kind, options = RULES[name]
    images = model.startswith("conv4")
    if kind is Hypernet:
        shapes = (
            {"input_shape": (1, 16, 16), "output_size": 3}
            if images
            else {"input_shape": (1,), "output_size": 1}
        )
        options = {**options, **shapes}
    learner = GradientAdaptation(
        model=network(model),
        rule=kind(**options),
        loop=InnerLoop(steps=STEPS),
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learner.rule.parameters():  # no symmetry, no zero
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return learner


def by_plain_loop(learner: GradientAdaptation, batch: Tasks, exact: bool) -> dict[str, Tensor]:
    """One task after another, the whole model by functional_call, and the rule on one task at a time."""
    learner.zero_grad()
    for t in range(TASKS):
        params = {name: p[None] for name, p in learner.model.named_parameters()}
        state = learner.rule.init(params)
        one = batch.part(slice(t, t + 1))
        for step in range(STEPS):
            loss = task_loss(learner, params, one, one.support)
            found = torch.autograd.grad(loss, list(params.values()), create_graph=exact)
            state = learner.rule.observe(state, one.support, (loss if exact else loss.detach())[None])
            grads = dict(zip(params, found, strict=True))
            params, state = learner.rule.update(params, grads, state, step)
        (task_loss(learner, params, one, one.query) / TASKS).backward()
    return gradients(learner)


def task_loss(
    learner: GradientAdaptation, params: dict[str, Tensor], one: Tasks, examples: Examples
) -> Tensor:
    own = {name: p[0] for name, p in params.items()}
    return one.scoring.loss(functional_call(learner.model, own, (examples.x[0],))[None], examples.y)[0]


@pytest.mark.parametrize("model", ["mlp", "conv4-batch"])
@pytest.mark.parametrize("metagradient", [Exact(), FirstOrder()], ids=["exact", "first_order"])
@pytest.mark.parametrize("name", RULES)
def test_equals_a_plain_loop_over_tasks(name: str, metagradient: MetaGradient, model: str) -> None:
    learner, batch = make(name, model), task_batch(model)
    expected = by_plain_loop(learner, batch, exact=not isinstance(metagradient, FirstOrder))
    found = by_engine(learner, metagradient, batch, chunk=TASKS)
    assert any(n.startswith("rule.") for n in found) == any(True for _ in learner.rule.parameters())
    assert worst(found, expected) < 1e-8


def test_every_rule_is_here() -> None:
    from metarun import rules

    assert {kind.__name__ for kind, _ in RULES.values()} == set(rules.__all__) - {"Parameters", "UpdateRule"}
