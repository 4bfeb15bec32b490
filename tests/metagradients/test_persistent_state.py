"""What goes from task to task besides θ: the second moments of Reptile's inner Adam."""

from __future__ import annotations

import pytest
import torch
from plain_loop import task_batch
from torch import Tensor, nn

from metarun.config.composition import compose_config
from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.experiment.build import build, build_metagradient
from metarun.experiment.config import read_config
from metarun.experiment.outer import Outer, OuterSettings
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Progress, Reptile
from metarun.models import MLP
from metarun.rules import Adam
from metarun.tasks import Tasks
from metarun.training.updates import assign

INNER_STEPS, META_STEPS, INNER_RATE, OUTER_RATE = 3, 4, 0.01, 0.7


def learner() -> GradientAdaptation:
    torch.manual_seed(0)
    return GradientAdaptation(
        model=MLP(input_shape=(1,), output_size=1, hidden=(6,)).double(),
        rule=Adam(lr=INNER_RATE, beta1=0.0, second_moments="kept"),
        loop=InnerLoop(steps=INNER_STEPS),
    ).double()


def trained(meta_batch: int, chunk: int, steps: int = META_STEPS) -> GradientAdaptation:
    made = learner()
    moved = [p for p in made.parameters() if p.requires_grad]
    outer = Outer(OuterSettings(optimizer={}, lr=OUTER_RATE), torch.optim.SGD, moved, META_STEPS)
    tasks = task_batch("mlp", META_STEPS * meta_batch)
    executor = Executor(Engine(chunk=chunk), made)
    for number in range(steps):
        part = tasks.part(slice(number * meta_batch, (number + 1) * meta_batch))
        (step,) = meta_steps(Reptile(), made, part, Progress(number, META_STEPS), executor)
        step.fill(made)
        outer.step(number)
        assert step.assignments.keys() == {f"rule.{name}" for name, _ in made.rule.named_parameters()}
        assign(made, step.assignments)
    return made


def by_torch(model: nn.Module, tasks: Tasks) -> tuple[list[Tensor], list[Tensor]]:
    """Reptile as its authors have it: one Adam for all tasks, one after another; θ, and second moments."""
    theta = [p.detach().clone() for p in model.parameters()]
    adam = torch.optim.Adam(model.parameters(), lr=INNER_RATE, betas=(0.0, 0.999))
    for task in range(len(tasks)):
        for _ in range(INNER_STEPS):
            adam.zero_grad()
            (model(tasks.support.x[task]) - tasks.support.y[task]).square().mean().backward()
            adam.step()
        with torch.no_grad():
            theta = [
                before + OUTER_RATE * (p - before)
                for before, p in zip(theta, model.parameters(), strict=True)
            ]
            for p, before in zip(model.parameters(), theta, strict=True):
                p.copy_(before)
    return theta, [adam.state[p]["exp_avg_sq"] for p in model.parameters()]


def test_one_task_a_meta_step_is_torchs_adam_that_lives_on() -> None:
    made = trained(1, 1)
    theta, moments = by_torch(learner().model, task_batch("mlp", META_STEPS))
    for p, expected in zip(made.model.parameters(), theta, strict=True):
        torch.testing.assert_close(p.detach(), expected, rtol=1e-10, atol=1e-12)
    for v, expected in zip(made.rule.second.values(), moments, strict=True):
        torch.testing.assert_close(v.detach(), expected, rtol=1e-10, atol=1e-14)
    assert made.rule.taken == INNER_STEPS * META_STEPS


def test_a_meta_batch_leaves_the_mean_of_its_tasks_in_any_chunks() -> None:
    whole = trained(3, 3)
    alone = [by_torch(learner().model, task_batch("mlp", 3).part(slice(n, n + 1)))[1] for n in range(3)]
    first = trained(3, 2, steps=1)
    for v, *each in zip(first.rule.second.values(), *alone, strict=True):
        torch.testing.assert_close(v.detach(), torch.stack(each).mean(0), rtol=1e-10, atol=1e-14)
    for chunk in (1, 2):
        for p, expected in zip(trained(3, chunk).parameters(), whole.parameters(), strict=True):
            torch.testing.assert_close(p, expected, rtol=1e-10, atol=1e-14)


def test_only_reptile_carries() -> None:
    config = read_config(compose_config(["inner=reptile", "device=cpu"]))
    with pytest.raises(ConfigError, match=r"is for metagradient=reptile.*type inner\.second_moments=fresh"):
        build_metagradient(config, build(config).learner)
