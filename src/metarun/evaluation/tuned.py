"""An update rule against hand-designed optimizers, each tuned on the same tasks and inner steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from metarun.engine.executor import Executor
from metarun.evaluation.curve import Curve, evaluate
from metarun.learners import GradientAdaptation
from metarun.rules import SGD, Adam, Momentum, RMSProp, UpdateRule
from metarun.tasks import Split, TaskSource

HAND_DESIGNED: dict[str, Callable[..., UpdateRule]] = {
    "SGD": SGD,
    "momentum": Momentum,
    "RMSProp": RMSProp,
    "Adam": Adam,
}

RATES = tuple(c * 10.0**e for e in range(-4, 2) for c in (1, 2, 5))
"""The grid: 1, 2 and 5 times powers of ten, from 0.0001 to 50."""


@dataclass(frozen=True)
class Entry:
    """One optimizer's curve on the test tasks, and the rate it was tuned to; the learned one has none."""

    name: str
    lr: float | None
    rule: UpdateRule
    curve: Curve


def against_tuned(
    learner: GradientAdaptation,
    source: TaskSource,
    executor: Executor,
    *,
    validation_tasks: int,
    test_tasks: int,
) -> Iterator[Entry]:
    """Yield the learner's own rule, then SGD, momentum, RMSProp and Adam, all from the same starts.

    The others' rate is the one of RATES with the lowest mean loss after the last step on validation tasks;
    everything else about them is as torch.optim has it. The learner is left with its own rule.
    """

    def curve(rule: UpdateRule, split: Split, tasks: int) -> Curve:
        learner.rule = rule
        return evaluate(learner, source, split, tasks, executor)

    own = learner.rule
    try:
        yield Entry("learned", None, own, curve(own, "test", test_tasks))
        for name, make in HAND_DESIGNED.items():
            finals = {}
            for lr in RATES:
                loss = curve(make(lr=lr), "validation", validation_tasks).final["loss"].mean
                finals[lr] = loss if math.isfinite(loss) else math.inf
            best = min(finals, key=finals.__getitem__)
            rule = make(lr=best)
            yield Entry(name, best, rule, curve(rule, "test", test_tasks))
    finally:
        learner.rule = own


def response(rule: UpdateRule, gradients: torch.Tensor, past: torch.Tensor, steps: int) -> torch.Tensor:
    """Return how far a rule moves a coordinate whose gradient was `past` for some steps and is now another.

    Args:
        rule: one that moves every coordinate alike.
        gradients: [n], of the last step.
        past: [m], of the steps before it; with many steps their momentum.
        steps: how many before it.

    Returns:
        The change of the coordinate in the last step, [m, n].
    """
    now = gradients.expand(len(past), -1).reshape(1, -1)
    before = past[:, None].expand(-1, len(gradients)).reshape(1, -1)
    with torch.no_grad():
        params: dict[str, torch.Tensor] = {"w": torch.zeros_like(now)}
        state: Any = rule.init(params)
        for step in range(steps):
            moved, state = rule.update(params, {"w": before}, state, step)
            params = {"w": torch.zeros_like(moved["w"])}
        after, _ = rule.update(params, {"w": now}, state, steps)
    return after["w"].view(len(past), len(gradients))
