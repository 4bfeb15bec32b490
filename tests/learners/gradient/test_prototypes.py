"""Proto-MAML: the meta-gradient of a loop over tasks, written out."""

from __future__ import annotations

import pytest
import torch
from plain_loop import fill, gradients
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, InnerLoop, ProtoMAML
from metarun.metagradients import Exact, FirstOrder, MetaGradient, Reptile
from metarun.models import MLP, Conv4
from metarun.rules import SGD, LearnedRates
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import cross_entropy

WAY, STEPS, LR = 3, 2, 0.1


def batch(tasks: int = 3, way: int = WAY) -> Tasks:
    generator = torch.Generator().manual_seed(0)
    images = lambda n: torch.rand(tasks, n, 1, 16, 16, generator=generator, dtype=torch.float64)
    labels = lambda n: torch.arange(n).remainder(way).expand(tasks, n)
    parts = (Examples(images(n), labels(n)) for n in (2 * way, 3 * way))
    return Tasks(*parts, scoring=Scoring(cross_entropy))


def network() -> Conv4:
    torch.manual_seed(0)
    model = Conv4(input_shape=(1, 16, 16), output_size=None, filters=4)
    for p in model.parameters():
        nn.init.normal_(p, std=0.5)
    return model.double()


def learner_of(**keys: object) -> ProtoMAML:
    given = {
        "model": network(),
        "rule": SGD(lr=LR),
        "loop": InnerLoop(steps=STEPS),
        "training_output_size": WAY,
    }
    return ProtoMAML(**{**given, **keys}).double()


def loop(model: nn.Module, tasks: Tasks, *, first_order: bool) -> tuple[list[Tensor], list[Tensor]]:
    """The query losses of each task, and their mean's gradient with respect to the model."""
    theta, losses = dict(model.named_parameters()), []
    for t in range(len(tasks)):
        x, y = tasks.support.x[t], tasks.support.y[t]
        features = functional_call(model, theta, (x,))
        means = torch.stack([features[y == label].mean(0) for label in range(WAY)])
        # The head is a variable of its own: the inner gradient of a copy of θ does not pass through it.
        body = {name: p * 1.0 for name, p in theta.items()}
        weight, bias = 2 * means, -(means**2).sum(1)
        for _ in range(STEPS):
            logits = F.linear(functional_call(model, body, (x,)), weight, bias)
            variables = [*body.values(), weight, bias]
            grads = torch.autograd.grad(F.cross_entropy(logits, y), variables, create_graph=not first_order)
            *moved, weight, bias = (v - LR * g for v, g in zip(variables, grads, strict=True))
            body = dict(zip(body, moved, strict=True))
        logits = F.linear(functional_call(model, body, (tasks.query.x[t],)), weight, bias)
        losses.append(F.cross_entropy(logits, tasks.query.y[t]))
    return losses, list(torch.autograd.grad(torch.stack(losses).mean(), list(theta.values())))


@pytest.mark.parametrize("engine", [Engine(chunk=1), Engine(chunk=3), Engine(chunk=3, rematerialise=True)])
@pytest.mark.parametrize("metagradient", [Exact(), FirstOrder()], ids=["exact", "first order"])
def test_its_meta_gradient_is_that_of_a_loop(metagradient: MetaGradient, engine: Engine) -> None:
    first_order = isinstance(metagradient, FirstOrder)
    if engine.rematerialise and first_order:
        pytest.skip("nothing is recomputed")
    learner, tasks = learner_of(), batch()
    engine.use(learner)
    scores = fill(learner, metagradient, tasks, engine)
    losses, expected = loop(network(), tasks, first_order=first_order)
    torch.testing.assert_close(scores["loss"], torch.stack(losses).detach(), rtol=1e-10, atol=1e-12)
    found = gradients(learner)
    for (name, _), gradient in zip(network().named_parameters(), expected, strict=True):
        own = found.get(f"model.{name}", torch.zeros_like(gradient))  # none for a bias before a batch norm
        torch.testing.assert_close(own, gradient, rtol=1e-8, atol=1e-11)


def test_without_steps_it_classifies_as_a_prototypical_network_with_any_number_of_classes() -> None:
    learner, tasks = learner_of(loop=InnerLoop(steps=0)), batch(way=5)
    features = network()
    logits = learner.predict(learner.adapt(tasks), tasks.query.x)
    for t in range(3):
        support, query = features(tasks.support.x[t]), features(tasks.query.x[t])
        means = torch.stack([support[tasks.support.y[t] == label].mean(0) for label in range(5)])
        expected = (-torch.cdist(query, means).square()).softmax(1)
        torch.testing.assert_close(logits[t].softmax(1), expected, rtol=1e-9, atol=1e-12)


def test_a_rule_with_weights_for_each_parameter_has_some_for_the_head() -> None:
    learner = learner_of(rule=LearnedRates(lr=0.1))
    fill(learner, Exact(), batch(), Engine(chunk=3))
    assert any("head" in name for name in learner.trained_names())
    assert all(gradient.abs().max() > 0 for gradient in gradients(learner).values() if gradient.numel() > 1)


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ConfigError, match="start=fresh draws the parameters of a task"):
        learner_of(start="fresh", make_model=network)
    with pytest.raises(ConfigError, match="trains an initialisation that adapts as a whole"):
        Reptile().check(learner_of())
    assert issubclass(ProtoMAML, GradientAdaptation)
    assert ProtoMAML.model_output_size(5) is None
    with pytest.raises(ConfigError, match="does not tell its `features`"):
        learner_of(model=nn.Sequential(MLP(input_shape=(1, 16, 16), output_size=None)))
