"""Compares an update rule with hand-designed optimizers, tuned on the same tasks and inner steps."""

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
    """An optimizer's curve on the test tasks, and its tuned learning rate (None for the learned rule)."""

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

    The others' learning rate is the one of RATES with the lowest mean loss after the last step on validation
    tasks; their other settings are torch.optim's defaults. The learner gets its own rule back.
    """

    def curve(rule: UpdateRule, split: Split, tasks: int) -> Curve:
        learner.rule = rule
        return evaluate(learner, source, split, tasks, executor)

    learned_rule = learner.rule
    try:
        yield Entry("learned", None, learned_rule, curve(learned_rule, "test", test_tasks))
        for name, make in HAND_DESIGNED.items():
            finals = {}
            for lr in RATES:
                loss = curve(make(lr=lr), "validation", validation_tasks).final["loss"].mean
                finals[lr] = loss if math.isfinite(loss) else math.inf
            best = min(finals, key=finals.__getitem__)
            rule = make(lr=best)
            yield Entry(name, best, rule, curve(rule, "test", test_tasks))
    finally:
        learner.rule = learned_rule


def response(rule: UpdateRule, gradients: torch.Tensor, past: torch.Tensor, steps: int) -> torch.Tensor:
    """Return a rule's step on a coordinate whose gradient was `past` for some steps and now is `gradients`.

    Args:
        rule: a rule that treats every coordinate in the same way.
        gradients: [n], of the last step.
        past: [m], of the steps before it; after many steps this is the momentum.
        steps: number of steps before the last.

    Returns:
        The change of the coordinate in the last step, [m, n].
    """
    last_gradients = gradients.expand(len(past), -1).reshape(1, -1)
    past_gradients = past[:, None].expand(-1, len(gradients)).reshape(1, -1)
    with torch.no_grad():
        params: dict[str, torch.Tensor] = {"w": torch.zeros_like(last_gradients)}
        state: Any = rule.init(params)
        for step in range(steps):
            updated, state = rule.update(params, {"w": past_gradients}, state, step)
            params = {"w": torch.zeros_like(updated["w"])}
        updated, _ = rule.update(params, {"w": last_gradients}, state, steps)
    return updated["w"].view(len(past), len(gradients))
