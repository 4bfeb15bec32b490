"""Small networks, batches and comparisons for tests of meta-gradients against a plain loop over tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.learners import Learner
from metarun.metagradients import MetaGradient, Progress
from metarun.models import MLP, Conv4, Linear
from metarun.tasks import Examples, Scores, Scoring, Sinusoid, Tasks
from metarun.tasks.metrics import cross_entropy

TASKS, STEPS = 3, 2
Gradients = dict[str, Tensor]


class VmappedMLP(MLP):
    """A network that is no mere sequence of layers, as a user's may be."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class VmappedConv4(Conv4):
    """The same for images."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def task_batch(model: str, tasks: int = TASKS) -> Tasks:
    if not model.startswith("conv4"):
        return Sinusoid(shot=4, query=3, dtype=torch.float64).batch("train", 0, tasks)
    generator = torch.Generator().manual_seed(0)
    images = lambda n: torch.rand(tasks, n, 1, 16, 16, generator=generator, dtype=torch.float64)
    labels = lambda n: torch.arange(n).remainder(3).expand(tasks, n)
    return Tasks(
        Examples(images(6), labels(6)), Examples(images(9), labels(9)), scoring=Scoring(cross_entropy)
    )


def network(model: str) -> nn.Module:
    torch.manual_seed(0)
    name, *options = model.split("-")
    mlp, conv4 = (VmappedMLP, VmappedConv4) if "vmapped" in options else (MLP, Conv4)
    norm = next((each for each in ("batch", "group", "layer") if each in options), "none")
    if name == "linear":
        net: nn.Module = Linear(input_shape=(1,), output_size=1)
    elif name == "mlp":
        activation = "tanh" if "tanh" in options else "relu"
        net = mlp(input_shape=(1,), output_size=1, hidden=(8, 8), norm=norm, activation=activation)
    else:
        halve = "stride" if "stride" in options else "pool"
        features = "mean" if "mean" in options else "flatten"
        net = conv4(
            input_shape=(1, 16, 16), output_size=3, filters=4, norm=norm, halve=halve, features=features
        )
    # Larger weights than an initialisation's, so that no derivative is nearly zero.
    for p in net.parameters():
        nn.init.normal_(p, std=0.5)
    return net.double()


def gradients(learner: nn.Module) -> Gradients:
    return {name: p.grad.clone() for name, p in learner.named_parameters() if p.grad is not None}


def fill(
    learner: Learner[Any],
    metagradient: MetaGradient[Any],
    batch: Tasks,
    engine: Engine,
    progress: Progress | None = None,
) -> Scores:
    """Put the meta-gradient into `.grad`, as a training does, and return the scores."""
    executor = Executor(engine, learner)
    (step,) = meta_steps(metagradient, learner, batch, progress or Progress(), executor)
    step.fill(learner)
    return step.scores


def by_engine(
    learner: Learner[Any],
    metagradient: MetaGradient[Any],
    batch: Tasks,
    chunk: int,
    progress: Progress | None = None,
) -> Gradients:
    learner.zero_grad()
    engine = Engine(chunk=chunk, rematerialise=learner.rematerialise)
    fill(learner, metagradient, batch, engine, progress)
    return gradients(learner)


def worst(found: Gradients, expected: Gradients) -> float:
    """The largest relative error of any parameter's meta-gradient.

    A bias before a batch norm has the gradient zero, so errors are relative to the largest parameter's norm
    where that is larger by five orders of magnitude. The engine may leave such a bias out.
    """
    assert found.keys() <= expected.keys()
    scale = max(g.norm().item() for g in expected.values())
    assert scale > 0
    return max(
        (found.get(n, torch.zeros_like(g)) - g).norm().item() / max(g.norm().item(), 1e-5 * scale)
        for n, g in expected.items()
    )
