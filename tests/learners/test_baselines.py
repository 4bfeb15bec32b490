"""Supervised training over all classes, and new heads: against torch.optim and loops over tasks."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import Finetuning, InnerLoop, NewHead, Pretrained
from metarun.metagradients import Exact, Progress
from metarun.models import MLP
from metarun.rules import Adam, LearnedRates, Momentum
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import ACCURACY, cross_entropy
from metarun.training.updates import assign

CLASSES, WAY, SHOT, QUERY = 7, 3, 2, 4
SCORING = Scoring(cross_entropy, (ACCURACY,))


def network() -> MLP:
    torch.manual_seed(0)
    model = MLP(input_shape=(4,), output_size=None, hidden=(6, 5), norm="batch", activation="tanh")
    for p in model.parameters():
        nn.init.normal_(p, std=0.7)
    return model.double()


def learner_of(name: str, **keys: Any) -> Pretrained:
    given = {"model": network(), "training_output_size": CLASSES, **keys}
    if name == "finetune":
        loop = InnerLoop(steps=5, batch=4, test_batch=4)
        return Finetuning(rule=Adam(lr=0.01), loop=loop, **given).double()
    rule = Momentum(lr=0.1, momentum=0.9, dampening=0.9, weight_decay=0.01)
    head = "cosine" if name == "baseline++" else "linear"
    return NewHead(rule=rule, loop=InnerLoop(steps=1, test_steps=7), head=head, **given).double()


def episodes(tasks: int, seed: int = 1) -> Tasks:
    generator = torch.Generator().manual_seed(seed)

    def examples(each: int) -> Examples:
        order = torch.stack([torch.randperm(WAY * each, generator=generator) % WAY for _ in range(tasks)])
        noise = torch.randn(tasks, WAY * each, 4, generator=generator, dtype=torch.float64)
        return Examples(noise + order[..., None], order)

    return Tasks(examples(SHOT), examples(QUERY), scoring=SCORING)


def mini_batches(count: int) -> Tasks:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, 9, 4, generator=generator, dtype=torch.float64)
    query = Examples(x, torch.randint(CLASSES, (count, 9), generator=generator))
    return Tasks(query.take(slice(0)), query, scoring=SCORING)


def trained(name: str) -> Pretrained:
    """After one meta-step, so that running statistics are no longer those of the start."""
    learner = learner_of(name)
    learner.check(mini_batches(2))
    (step,) = meta_steps(Exact(), learner, mini_batches(2), Progress(), Executor(Engine(chunk=2), learner))
    assign(learner, step.assignments)
    return learner


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_a_training_step_is_torchs_on_each_mini_batch(head: str, chunk: int) -> None:
    name = "baseline" if head == "linear" else "baseline++"
    learner, tasks = learner_of(name), mini_batches(3)
    executor = Executor(Engine(chunk=chunk), learner)
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), executor)

    model, last = network(), deepcopy(learner.training_head)
    losses = []
    for t in range(3):
        features = model(tasks.query.x[t])  # batch statistics, as its norms keep no running ones
        if head == "linear":
            logits = F.linear(features, last.linear.weight, last.linear.bias)
        else:
            logits = last.scale * F.cosine_similarity(features[:, None], last.linear.weight[None], dim=2)
        losses.append(F.cross_entropy(logits, tasks.query.y[t]))
    torch.testing.assert_close(step.scores["loss"], torch.stack(losses))
    torch.stack(losses).mean().backward()
    expected = {f"model.{n}": p.grad for n, p in model.named_parameters()}
    expected |= {f"training_head.{n}": p.grad for n, p in last.named_parameters()}
    assert step.gradients.keys() == expected.keys()
    for parameter, gradient in expected.items():
        torch.testing.assert_close(step.gradients[parameter], gradient, rtol=1e-9, atol=1e-12)
    assert len(step.assignments) == 4


@pytest.mark.parametrize("name", ["baseline", "baseline++"])
def test_a_new_head_is_what_torchs_optimizer_makes_of_it(name: str) -> None:
    learner, tasks = trained(name), episodes(3)
    with learner.evaluating(), torch.no_grad():
        logits = learner.predict(learner.adapt(tasks.without_answers()), tasks.query.x)
        for t in range(3):
            support, y = learner_features(learner, tasks.support.x[t]), tasks.support.y[t]
            query = learner_features(learner, tasks.query.x[t])
            expected = head_by_torch(name, learner, support, y, query)
            torch.testing.assert_close(logits[t], expected, rtol=1e-9, atol=1e-10)


def learner_features(learner: Pretrained, x: Tensor) -> Tensor:
    """Embeddings by a copy of the network with torch's own norms in evaluation mode."""
    return torch_copy(learner)(x).detach()


def torch_copy(learner: Pretrained) -> MLP:
    model = network()
    for layer, size in zip(model.body, (6, 5), strict=True):
        layer.norm = nn.BatchNorm1d(size).double()
    state = {n.removeprefix("model."): t for n, t in learner.state_dict().items() if n.startswith("model.")}
    model.load_state_dict(state, strict=False)
    return model.eval()


def head_by_torch(name: str, learner: NewHead, support: Tensor, y: Tensor, query: Tensor) -> Tensor:
    weight = nn.Parameter(torch.stack([support[y == label].mean(0) for label in range(WAY)]))
    bias = nn.Parameter(torch.zeros(WAY, dtype=torch.float64))
    if name == "baseline":
        nn.init.zeros_(weight)

    def logits(features: Tensor) -> Tensor:
        if name == "baseline":
            return F.linear(features, weight, bias)
        scale = learner.training_head.scale.item()
        return scale * F.cosine_similarity(features[:, None], weight[None], dim=2)

    with torch.enable_grad():
        parameters = [weight, bias] if name == "baseline" else [weight]
        optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, dampening=0.9, weight_decay=0.01)
        for _ in range(7):
            optimizer.zero_grad()
            F.cross_entropy(logits(support), y).backward()
            optimizer.step()
    return logits(query).detach()


@pytest.mark.parametrize("transductive", [False, True])
@pytest.mark.parametrize("together", [True, False])
def test_fine_tuning_is_a_loop_with_torchs_adam_and_running_statistics(
    together: bool, transductive: bool
) -> None:
    learner, tasks = trained("finetune"), episodes(3)
    learner.transductive = transductive
    assert learner.is_transductive == transductive
    before = {n: t.clone() for n, t in learner.state_dict().items()}
    parts = [tasks] if together else [tasks.part(slice(t, t + 1)) for t in range(3)]
    with learner.evaluating(), torch.no_grad():
        logits = torch.cat([learner.predict(learner.adapt(p.without_answers()), p.query.x) for p in parts])
    assert all(torch.equal(t, before[n]) for n, t in learner.state_dict().items())
    for t in range(3):
        model, x, y = torch_copy(learner), tasks.support.x[t], tasks.support.y[t]
        features = model(x).detach()
        means = torch.stack([features[y == label].mean(0) for label in range(WAY)])
        weight, bias = nn.Parameter(F.normalize(means, dim=1)), nn.Parameter(torch.zeros(WAY).double())
        optimizer = torch.optim.Adam([*model.parameters(), weight, bias], lr=0.01)
        for step in range(5):
            chosen = torch.arange(step * 4, step * 4 + 4) % (WAY * SHOT)
            optimizer.zero_grad()
            loss = F.cross_entropy(F.linear(model(x[chosen]), weight, bias), y[chosen])
            if transductive:
                p = F.linear(model(tasks.query.x[t]), weight, bias).softmax(1)
                loss = loss - (p * p.log()).sum(1).mean()
            loss.backward()
            optimizer.step()
        expected = F.linear(model(tasks.query.x[t]), weight, bias).detach()
        torch.testing.assert_close(logits[t], expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", ["baseline", "baseline++", "finetune"])
def test_the_order_of_the_support_set_does_not_matter_and_labels_may_be_swapped(name: str) -> None:
    learner, tasks = trained(name), episodes(2)
    learner.loop = InnerLoop(steps=5)  # on the whole support set
    order = torch.randperm(WAY * SHOT, generator=torch.Generator().manual_seed(3))
    relabel = torch.tensor([2, 0, 1])

    def logits(support: Examples) -> Tensor:
        with learner.evaluating(), torch.no_grad():
            return learner.predict(learner.adapt(Tasks(support, tasks.query)), tasks.query.x)

    expected = logits(tasks.support)
    torch.testing.assert_close(logits(tasks.support.take(order)), expected, rtol=1e-8, atol=1e-9)
    swapped = logits(Examples(tasks.support.x, relabel[tasks.support.y]))
    torch.testing.assert_close(swapped[..., relabel], expected, rtol=1e-8, atol=1e-9)


def test_a_rule_with_weights_and_a_model_without_a_size_are_refused() -> None:
    given = {"model": network(), "training_output_size": CLASSES, "loop": InnerLoop(steps=1)}
    with pytest.raises(ConfigError, match="LearnedRates has weights of its own, which supervised training"):
        NewHead(rule=LearnedRates(lr=0.1), **given)
    with pytest.raises(ConfigError, match="Linear does not tell its `features`"):
        NewHead(rule=Momentum(lr=0.1), **{**given, "model": nn.Linear(4, 5)})
