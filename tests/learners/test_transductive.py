"""Learners that see the whole query set, and transformed embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.learners import BDCSPN, PTMAP, TIM, EmbeddingLearner, LaplacianShot, SimpleShot, SoftKMeans
from metarun.learners.metric.matchingnet import Memory
from metarun.learners.transductive.bdcspn import rectified
from metarun.learners.transductive.laplacianshot import nearest
from metarun.learners.transductive.pt_map import transport
from metarun.metagradients import Exact, Progress
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import cross_entropy
from metarun.training.updates import assign

WAY, SHOT, QUERY, SIZE = 3, 2, 5, 6


class Embeddings(nn.Identity):
    """Inputs that are embeddings already."""

    features = SIZE


LEARNERS: dict[str, Any] = {
    "soft_kmeans": lambda: SoftKMeans(model=Embeddings(), steps=2),
    "soft_kmeans with a cluster": lambda: SoftKMeans(model=Embeddings(), distractors="cluster"),
    "soft_kmeans with masks": lambda: SoftKMeans(model=Embeddings(), distractors="masked"),
    "bdcspn": lambda: BDCSPN(model=Embeddings(), training_output_size=4, most=2),
    "laplacianshot": lambda: LaplacianShot(model=Embeddings(), training_output_size=4, transform="l2"),
    "tim": lambda: TIM(model=Embeddings(), training_output_size=4, steps=20, lr=0.01),
    "pt_map": lambda: PTMAP(model=Embeddings(), training_output_size=4),
}


def batch(tasks: int, seed: int = 0) -> Tasks:
    generator = torch.Generator().manual_seed(seed)

    def examples(each: int) -> Examples:
        labels = torch.stack([torch.randperm(WAY * each, generator=generator) % WAY for _ in range(tasks)])
        noise = 0.5 * torch.rand(tasks, WAY * each, SIZE, generator=generator, dtype=torch.float64)
        return Examples(noise + F.one_hot(labels, SIZE), labels)

    return Tasks(examples(SHOT), examples(QUERY), scoring=Scoring(cross_entropy))


def logits(learner: EmbeddingLearner, tasks: Tasks) -> Tensor:
    with learner.double().evaluating(), torch.no_grad():
        return learner.predict(learner.adapt(tasks.without_answers()), tasks.query.x)


@pytest.mark.parametrize("name", LEARNERS)
def test_tasks_together_are_tasks_alone_and_queries_are_not(name: str) -> None:
    learner, tasks = LEARNERS[name](), batch(5)
    assert learner.is_transductive
    whole = logits(learner, tasks)
    for t in range(5):
        alone = logits(learner, tasks.part(slice(t, t + 1)))
        torch.testing.assert_close(whole[t : t + 1], alone, rtol=0, atol=1e-10)
    fewer = Tasks(tasks.support, tasks.query.take(slice(0, 7)))
    assert (logits(learner, fewer) - whole[:, :7]).abs().max() > 1e-6


@pytest.mark.parametrize("name", LEARNERS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_orders_do_not_matter_and_labels_may_be_swapped(name: str, seed: int) -> None:
    learner, tasks = LEARNERS[name](), batch(2, seed)
    generator = torch.Generator().manual_seed(seed)
    order, places, relabel = (torch.randperm(n, generator=generator) for n in (WAY * SHOT, WAY * QUERY, WAY))
    expected = logits(learner, tasks)
    moved = Tasks(tasks.support.take(order), tasks.query.take(places))
    torch.testing.assert_close(logits(learner, moved), expected[:, places], rtol=0, atol=1e-8)
    swapped = Tasks(Examples(tasks.support.x, relabel[tasks.support.y]), tasks.query)
    torch.testing.assert_close(logits(learner, swapped)[..., relabel], expected, rtol=0, atol=1e-8)


def test_soft_k_means_by_hand() -> None:
    learner = SoftKMeans(model=Embeddings(), steps=1)
    support = torch.tensor([[[0.0], [2.0]]], dtype=torch.float64)
    query = torch.tensor([[[0.5], [1.0]]], dtype=torch.float64)
    classifier = learner.fit(support, torch.eye(2, dtype=torch.float64)[None])
    share = 1 / (1 + torch.exp(torch.tensor(0.25 - 2.25)))  # of the query at 0.5, for the class at 0
    first = (0.0 + 0.5 * share + 1.0 * 0.5) / (1 + share + 0.5)
    second = (2.0 + 0.5 * (1 - share) + 1.0 * 0.5) / (1 + (1 - share) + 0.5)
    expected = -torch.stack([(query[0, :, 0] - first) ** 2, (query[0, :, 0] - second) ** 2], 1)
    torch.testing.assert_close(learner.classify(classifier, query)[0], expected)


def test_prototypes_are_rectified_by_the_most_similar_queries_alone() -> None:
    support = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    query = torch.tensor([[1.0, 0.1], [1.0, 0.4], [0.2, 1.0]], dtype=torch.float64)
    moved = query + support.mean(0) - query.mean(0)
    cos = F.normalize(moved, dim=1) @ support.T
    assert cos.argmax(1).tolist() == [0, 0, 1]
    expected = []
    for label, chosen in ((0, 0), (1, 2)):  # one query of each class
        weights = torch.softmax(10 * torch.stack([torch.tensor(1.0).double(), cos[chosen, label]]), 0)
        expected.append(weights[0] * support[label] + weights[1] * moved[chosen])
    memory = Memory(support[None], torch.eye(2, dtype=torch.float64)[None])
    torch.testing.assert_close(rectified(memory, query[None], 10.0, 1)[0], torch.stack(expected))


def test_neighbours_are_the_nearest_others() -> None:
    x = torch.tensor([[[0.0], [1.0], [1.5], [9.0]]])
    assert nearest(x, 2).tolist() == [[[0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0]]]
    same = torch.zeros(1, 4, 1)  # an example is no neighbour of itself, though others are as near
    assert nearest(same, 3).diagonal(dim1=1, dim2=2).abs().sum() == 0


def test_a_transport_plan_has_its_sums_and_stops_task_by_task() -> None:
    cost = 30 * torch.rand(4, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plan = transport(cost).exp()
    torch.testing.assert_close(plan.sum(2), torch.ones(4, 12, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(plan.sum(1), torch.full((4, 3), 4.0, dtype=torch.float64), rtol=0, atol=1e-5)
    assert torch.equal(transport(cost[2:3]).exp(), plan[2:3])
    # A plan of least cost and most entropy is exp(−cost) with scaled rows and columns.
    scaled = plan.log() + cost
    corners = scaled[:, 1:, 1:] - scaled[:, :1, 1:] - scaled[:, 1:, :1] + scaled[:, :1, :1]
    torch.testing.assert_close(corners, torch.zeros_like(corners), rtol=0, atol=1e-9)
    far = transport(torch.full((1, 4, 2), 1e6, dtype=torch.float32))
    torch.testing.assert_close(far.exp(), torch.full((1, 4, 2), 0.5))


def test_mutual_information_is_what_the_steps_increase() -> None:
    learner, tasks = LEARNERS["tim"]().double(), batch(3)
    support = Memory(tasks.support.x, F.one_hot(tasks.support.y).double())
    weight = torch.randn(3, WAY, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = lambda x, t: -7.5 * torch.cdist(x[t], weight[t]).square()
    for t, loss in enumerate(learner.losses(weight, support, tasks.query.x).tolist()):
        p = scores(tasks.query.x, t).softmax(1)
        mean = p.mean(0)
        information = -(mean * mean.log()).sum() + 0.1 * (p * p.log()).sum(1).mean()
        error = F.cross_entropy(scores(tasks.support.x, t), tasks.support.y[t])
        assert loss == pytest.approx(float(0.1 * error - information))


def test_embeddings_are_centred_by_the_mean_of_the_training_images() -> None:
    learner = SimpleShot(model=Embeddings(), training_output_size=4).double()
    images = Examples(
        torch.rand(2, 8, SIZE, dtype=torch.float64) + 3.0, torch.arange(8).remainder(4).expand(2, 8)
    )
    tasks = Tasks(images.take(slice(0)), images, scoring=Scoring(cross_entropy))
    for _ in range(3):
        (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=2), learner))
        assign(learner, step.assignments)
    mean = learner.centre / learner.centre_weight
    torch.testing.assert_close(mean, images.x.mean((0, 1)))  # the same images in each step
    x = batch(1).query.x
    with learner.evaluating():
        torch.testing.assert_close(learner.embed(x), F.normalize(x - mean, dim=2))
    torch.testing.assert_close(learner.train().embed(x), x)


def test_tasks_with_fewer_classes_are_computed_one_after_another() -> None:
    tasks = replace(batch(2), ways=torch.tensor([2, 3]))
    for make in LEARNERS.values():
        assert "would count the classes that smaller tasks do not have" in make().double().apart(tasks)
    assert not SimpleShot(model=Embeddings(), training_output_size=4).double().apart(tasks)


def test_a_missing_mean_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    learner = SimpleShot(model=Embeddings(), training_output_size=4)
    for _ in range(2):
        logits(learner, batch(2))
    assert caplog.text.count("no mean of training embeddings is known yet") == 1


def test_padded_query_sets_are_computed_one_after_another() -> None:
    tasks = batch(2)
    padded = Tasks(tasks.support, Examples(tasks.query.x, tasks.query.y, torch.ones(2, WAY * QUERY) > 0))
    for make in LEARNERS.values():
        assert "learns from query sets, and would learn from the padding" in make().double().apart(padded)
        assert not make().double().apart(padded.packed())


@pytest.mark.parametrize("kind", ["cluster", "masked"])
def test_examples_of_other_classes_count_less_as_published(kind: Any) -> None:
    """Equations of sections 3.1.2 and 3.1.3 of arXiv:1803.00676, example by example."""
    torch.manual_seed(0)
    learner = SoftKMeans(model=Embeddings(), steps=2, refine="unlabelled", distractors=kind).double()
    if learner.log_radius is not None:
        learner.log_radius.data.fill_(0.3)
    tasks = batch(2)
    other = torch.rand(2, 9, SIZE, dtype=torch.float64)
    tasks = replace(tasks, unlabelled=Examples(other, torch.zeros(2, 9, dtype=torch.int64)))
    found = logits(learner, tasks)
    for t in range(2):
        x, y = learner.model(tasks.support.x[t : t + 1])[0], tasks.support.y[t]
        u, q = (learner.model(each[t : t + 1])[0] for each in (other, tasks.query.x))
        sums = torch.stack([x[y == c].sum(0) for c in range(WAY)])
        counts = torch.bincount(y, minlength=WAY).double()
        prototypes = sums / counts[:, None]
        for _ in range(2):
            distance = torch.stack([(u - p).square().sum(1) for p in prototypes], 1)  # [n, classes]
            weights = torch.exp(-distance)
            total = weights.sum(1)
            if learner.log_radius is not None:
                radius = learner.log_radius.detach().exp()
                total = total + torch.exp(-u.square().sum(1) / radius**2) / radius
            share = weights / total[:, None]
            if learner.thresholds is not None:
                relative = distance / distance.mean(0)
                facts = np.stack(
                    [
                        relative.amin(0),
                        relative.amax(0),
                        relative.var(0, correction=0),
                        stats.skew(relative.detach().numpy()),
                        stats.kurtosis(relative.detach().numpy(), fisher=False),
                    ],
                    1,
                )
                beta, gamma = learner.thresholds(torch.tensor(facts)).detach().unbind(1)
                share = share / (1 + torch.exp(gamma * (relative - beta)))
            share = share.detach()
            prototypes = (sums + share.T @ u) / (counts + share.sum(0))[:, None]
        expected = -torch.stack([(q - p).square().sum(1) for p in prototypes], 1)
        torch.testing.assert_close(found[t], expected.detach())
    loss = learner.scores(learner.adapt(tasks), tasks)["loss"].sum()
    loss.backward()
    own = [p for n, p in learner.named_parameters() if not n.startswith("model")]
    assert own
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
