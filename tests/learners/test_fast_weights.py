"""Networks that write weights: LEO against a plain loop, heads and fast weights by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import LEO, HypernetHead, InnerLoop, Learner, MetaNet
from metarun.learners.fast_weights.leo import correlation
from metarun.metagradients import Exact, Progress
from metarun.models import Linear
from metarun.rules import LearnedRates
from metarun.rules.coordinatewise import log_and_sign
from metarun.system import hashing
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import ACCURACY, cross_entropy

WAY, SHOT, QUERY, SIZE = 3, 2, 4, 5


def tasks_of(tasks: int) -> Tasks:
    generator = torch.Generator().manual_seed(0)

    def examples(n: int) -> Examples:
        y = torch.stack([torch.randperm(WAY * n, generator=generator) % WAY for _ in range(tasks)])
        x = torch.randn(tasks, WAY * n, SIZE, generator=generator, dtype=torch.float64)
        return Examples(x + y[..., None], y)

    return Tasks(
        examples(SHOT),
        examples(QUERY),
        key=torch.arange(tasks) * 31 + 5,
        scoring=Scoring(cross_entropy, (ACCURACY,)),
    )


def body() -> Linear:
    return Linear(input_shape=(SIZE,), output_size=None)


def leo(**given: Any) -> LEO:
    made = LEO(
        model=body(),
        rule=LearnedRates(lr=0.5, per="all"),
        loop=InnerLoop(steps=2),
        training_output_size=WAY,
        latent=4,
        finetuning_steps=2,
        finetuning_lr=0.1,
        kl_weight=0.3,
        encoder_penalty=0.2,
        orthogonality=0.7,
        **given,
    )
    return made.double()


def by_hand(made: LEO, support: Examples, query: Examples, key: Tensor, *, training: bool) -> Tensor:
    """Algorithm 1 for one task, class by class and pair by pair; the loss with its penalties."""
    encoded = [made.encoder(x) for x in support.x]
    n = len(encoded)
    means, scales = [], []
    for k in range(WAY):
        members = [i for i in range(n) if support.y[i] == k]
        related = [made.relation(torch.cat([encoded[i], encoded[j]])) for i in members for j in range(n)]
        mean, scale = (sum(related) / len(related)).chunk(2)
        means.append(mean)
        scales.append(scale.exp())
    mean, scale = torch.stack(means), torch.stack(scales)

    def drawn(m: Tensor, s: Tensor, stream: int) -> Tensor:
        if not training:
            return m
        return m + s * hashing.normal(key[None], stream, m.numel()).view(m.shape)

    def head(code: Tensor, step: int) -> Tensor:
        m, s = made.decoder(code).chunk(2, 1)
        least = math.sqrt(2 / (SIZE + 4))
        return drawn(m, (s.exp() - (1 - least)).clamp_min(1e-10), 202 + step)

    start = z = drawn(mean, scale, 201)
    rate = next(iter(made.rule.parameters()))
    for step in range(2):
        loss = F.cross_entropy(support.x @ head(z, step).T, support.y)
        z = z - rate * torch.autograd.grad(loss, z, create_graph=True)[0]
    w = head(z, 2)
    for _ in range(2):
        loss = F.cross_entropy(support.x @ w.T, support.y)
        w = w - made.finetuning_rate * torch.autograd.grad(loss, w, create_graph=True)[0]
    result = F.cross_entropy(query.x @ w.T, query.y)
    if training:
        kl = (scale**2 + mean**2 - 1 - 2 * scale.log()).sum(1).mean() / 2
        rows = F.normalize(made.decoder.weight.T, dim=1)
        orthogonal = (rows @ rows.T - torch.eye(4).double()).square().mean()
        result = result + 0.3 * kl + 0.2 * (z.detach() - start).square().mean() + 0.7 * orthogonal
    return result


@pytest.mark.parametrize("training", [True, False])
def test_leo_is_its_algorithm_and_so_are_its_gradients(training: bool) -> None:
    made, tasks = leo().train(training), tasks_of(3)
    scores = made.scores(made.adapt(tasks.without_answers()), tasks)
    assert tasks.key is not None
    losses = []
    for i in range(3):
        support, query = (Examples(e.x[i], e.y[i]) for e in (tasks.support, tasks.query))
        losses.append(by_hand(made, support, query, tasks.key[i], training=training))
    torch.testing.assert_close(scores["loss"], torch.stack(losses), rtol=0, atol=1e-10)
    parameters = list(made.parameters())
    got = torch.autograd.grad(scores["loss"].sum(), parameters)
    expected = torch.autograd.grad(sum(losses, torch.zeros(())), parameters)
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=0, atol=1e-9)


def test_leo_has_a_curve_over_both_kinds_of_steps() -> None:
    made, tasks = leo().eval(), tasks_of(2)
    curve = list(made.curve(tasks))
    assert len(curve) == made.steps + 1 == 5
    assert curve[-1]["loss"].mean() < curve[0]["loss"].mean()
    assert not any(scores["loss"].requires_grad for scores in curve)


def test_leo_draws_with_the_keys_of_tasks() -> None:
    made, tasks = leo(), tasks_of(2)
    with pytest.raises(ConfigError, match="codes are drawn with the keys of tasks"):
        made.adapt(Tasks(tasks.support, tasks.query, scoring=tasks.scoring))


def test_rows_at_right_angles_are_not_punished() -> None:
    assert correlation(torch.eye(3)).item() == 0
    assert correlation(torch.ones(2, 3)).item() == pytest.approx(0.5)


def test_a_written_head_is_the_class_means_and_what_the_writer_adds() -> None:
    made, tasks = HypernetHead(model=body(), width=6).double(), tasks_of(1)
    x, y = tasks.support.x[0], tasks.support.y[0]
    weights, biases = [], []
    for k in range(WAY):
        c = x[y == k].mean(0)
        written = made.writer(c)
        weights.append(made.scale * (c + written[:-1]))
        biases.append(written[-1])
    expected = tasks.query.x[0] @ torch.stack(weights).T + torch.stack(biases)
    got = made.predict(made.adapt(tasks), tasks.query.x)[0]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_metanet_writes_fast_weights_from_the_gradient_of_each_example() -> None:
    made = MetaNet(
        model=body(), output_size=WAY, training_output_size=WAY, hidden=4, key=3, writer=5
    ).double()
    tasks = tasks_of(1)
    hidden, out, keys = [], [], []
    for x, y in zip(tasks.support.x[0], tasks.support.y[0], strict=True):
        loss = F.cross_entropy(made.out(made.hidden(x).relu()), y)
        of_hidden, of_out = torch.autograd.grad(loss, [made.hidden.weight, made.out.weight])
        hidden.append(made.write_hidden(log_and_sign(of_hidden, 10.0)).squeeze(2))
        out.append(made.write_out(log_and_sign(of_out, 10.0)).squeeze(2))
        keys.append(F.normalize(made.key(x), dim=0))
    expected = []
    for x in tasks.query.x[0]:
        key = F.normalize(made.key(x), dim=0)
        a = (made.sharpness.exp() * torch.stack([key @ other for other in keys])).softmax(0)
        fast_hidden = sum(w * f for w, f in zip(a, hidden, strict=True))
        fast_out = sum(w * f for w, f in zip(a, out, strict=True))
        active = made.hidden(x).relu() + (fast_hidden @ x).relu()
        expected.append(made.out(active) + fast_out @ active)
    got = made.predict(made.adapt(tasks), tasks.query.x)[0]
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["leo", "hypernet_head", "metanet"])
def test_a_meta_step_is_the_same_in_any_chunks(name: str) -> None:
    made: Learner[Any] = {
        "leo": leo,
        "hypernet_head": lambda: HypernetHead(model=body(), width=6).double(),
        "metanet": lambda: MetaNet(
            model=body(), output_size=WAY, training_output_size=WAY, hidden=4
        ).double(),
    }[name]().train()
    tasks = tasks_of(5)
    steps = []
    for chunk in (1, 2, 5):
        (step,) = meta_steps(Exact(), made, tasks, Progress(), Executor(Engine(chunk=chunk), made))
        steps.append(step.gradients)
    for gradients in steps[1:]:
        for parameter, gradient in gradients.items():
            torch.testing.assert_close(gradient, steps[0][parameter], rtol=1e-9, atol=1e-12)


def test_metanet_leaves_padding_out() -> None:
    made = MetaNet(model=body(), output_size=WAY, training_output_size=WAY, hidden=4).double()
    tasks = tasks_of(1)
    support = tasks.support
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]]).bool()
    padded = Tasks(Examples(support.x, support.y, mask), tasks.query, scoring=tasks.scoring)
    fewer = Tasks(support.take(slice(4)), tasks.query, scoring=tasks.scoring)
    got, expected = (made.predict(made.adapt(t), t.query.x) for t in (padded, fewer))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_rates_of_each_entry_have_one_number_of_classes() -> None:
    made = LEO(
        model=body(),
        rule=LearnedRates(lr=0.5, per="entry"),
        loop=InnerLoop(steps=1),
        training_output_size=WAY,
        latent=4,
    ).double()
    made.check(tasks_of(2))
    with pytest.raises(ConfigError, match="and tasks have different numbers of classes"):
        made.check(replace(tasks_of(2), ways=torch.tensor([WAY, WAY - 1])))


def test_metanet_has_one_number_of_classes() -> None:
    with pytest.raises(ConfigError, match="this head has one number of classes"):
        MetaNet(model=body(), output_size=3, training_output_size=6)
