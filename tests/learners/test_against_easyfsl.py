"""Learners against those of the package easyfsl, on the same embeddings, task by task."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners import (
    BDCSPN,
    FEAT,
    PTMAP,
    TIM,
    EmbeddingLearner,
    LaplacianShot,
    MatchingNet,
    ProtoNet,
    RelationNet,
    SimpleShot,
)
from metarun.models import Conv4
from metarun.tasks import Examples, Tasks

TASKS, WAY, SHOT, QUERY, SIZE = 3, 5, 3, 6, 16


@pytest.fixture(scope="module")
def easyfsl() -> Iterator[ModuleType]:
    """The package's methods. Of torchvision they need nothing but names, for networks not built here."""
    pytest.importorskip("easyfsl")
    resnet = ModuleType("torchvision.models.resnet")
    for name in ("BasicBlock", "Bottleneck", "conv1x1", "conv3x3"):
        setattr(resnet, name, type(name, (), {}))
    names = {"torchvision": ModuleType("torchvision"), "torchvision.models": ModuleType("torchvision.models")}
    names["torchvision.models.resnet"] = resnet
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # it makes tensors of the default dtype
    sys.modules.update(names)
    try:
        yield importlib.import_module("easyfsl.methods")
    finally:
        for name in names:
            del sys.modules[name]
        torch.set_default_dtype(dtype)


class Embeddings(nn.Identity):
    """Inputs that are embeddings already."""

    features = SIZE


def batch() -> Tasks:
    """Non-negative embeddings of overlapping classes."""
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(TASKS, WAY, SIZE, generator=generator, dtype=torch.float64)

    def examples(each: int) -> Examples:
        labels = torch.stack([torch.randperm(WAY * each, generator=generator) % WAY for _ in range(TASKS)])
        noise = 0.4 * torch.randn(TASKS, WAY * each, SIZE, generator=generator, dtype=torch.float64)
        return Examples((means.gather(1, labels[..., None].expand(-1, -1, SIZE)) + noise).relu(), labels)

    return Tasks(examples(SHOT), examples(QUERY))


def ours(learner: EmbeddingLearner, tasks: Tasks) -> Tensor:
    learner.double()
    with learner.evaluating(), torch.no_grad():
        return learner.predict(learner.adapt(tasks), tasks.query.x)


def theirs(method: Any, tasks: Tasks) -> Tensor:
    scores = []
    for t in range(len(tasks)):
        method.process_support_set(tasks.support.x[t], tasks.support.y[t])
        scores.append(method(tasks.query.x[t]).detach())
    return torch.stack(scores)


def pretrained(kind: type[EmbeddingLearner], **keys: Any) -> Any:
    return kind(model=Embeddings(), training_output_size=2, **keys)


def agree(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)
    assert len(found.argmax(-1).unique()) == WAY


def test_prototypical_networks(easyfsl: ModuleType) -> None:
    tasks = batch()
    expected = theirs(easyfsl.PrototypicalNetworks(nn.Identity()), tasks)  # minus the distances
    agree(-(-ours(ProtoNet(model=Embeddings()), tasks)).sqrt(), expected)


@pytest.mark.parametrize("centred", [False, True])
def test_simpleshot(easyfsl: ModuleType, centred: bool) -> None:
    tasks, centre = batch(), torch.full((SIZE,), 0.3, dtype=torch.float64)
    keys = {"feature_centering": centre, "feature_normalization": 2} if centred else {}
    learner = pretrained(
        SimpleShot, distance="cosine", transform="centred_l2" if centred else "none"
    ).double()
    learner.centre, learner.centre_weight = 0.5 * centre, torch.tensor(0.5)
    agree(ours(learner, tasks), theirs(easyfsl.SimpleShot(nn.Identity(), **keys), tasks))


def test_the_full_context_of_matching_networks(easyfsl: ModuleType) -> None:
    tasks, shots = batch(), WAY * SHOT
    torch.manual_seed(0)
    method = easyfsl.MatchingNetworks(nn.Identity(), feature_dimension=SIZE).double()
    learner = MatchingNet(model=Embeddings(), full_context=True, attention_steps=shots).double()
    learner.support_lstm.load_state_dict(method.support_features_encoder.state_dict())
    learner.query_lstm.load_state_dict(method.query_features_encoding_cell.state_dict())
    support = learner.fit(tasks.support.x, F.one_hot(tasks.support.y).double())
    queries = learner._attend(learner.query_lstm, support, tasks.query.x)
    for t in range(TASKS):
        method.process_support_set(tasks.support.x[t], tasks.support.y[t])
        expected = method.contextualized_support_features
        torch.testing.assert_close(support.features[t], expected, rtol=0, atol=1e-9)
        expected = method.encode_query_features(tasks.query.x[t])
        torch.testing.assert_close(queries[t], expected, rtol=0, atol=1e-9)


def test_relation_networks(easyfsl: ModuleType) -> None:
    """With one shot: there the paper sums the maps of a class, easyfsl takes their mean."""
    torch.manual_seed(0)
    model = Conv4(input_shape=(1, 16, 16), output_size=None, filters=4, halvings=2)
    learner = RelationNet(model=model, channels=6, hidden=5).double()
    x = torch.rand(1, 20, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.arange(20).remainder(WAY)[None]
    tasks = Tasks(Examples(x[:, :WAY], labels[:, :WAY]), Examples(x[:, WAY:], labels[:, WAY:]))
    learner.eval()
    maps = lambda images: learner.embed(images[None])[0].unflatten(1, learner.feature_shape)
    with torch.no_grad():
        logits = ours(learner, tasks)

        class Method(easyfsl.RelationNetworks):
            compute_features = staticmethod(maps)

        from metarun.learners.embedding import Pass, passing

        with passing(Pass(1, batch_statistics=False)):
            relation = lambda pairs: learner.relation(pairs).sigmoid()
            expected = theirs(Method(nn.Identity(), feature_dimension=4, relation_module=relation), tasks)
    torch.testing.assert_close(logits.sigmoid(), expected, rtol=0, atol=1e-10)


def test_feat(easyfsl: ModuleType) -> None:
    tasks = batch()
    modules = importlib.import_module("easyfsl.modules")
    torch.manual_seed(0)
    attention = modules.MultiHeadAttention(2, SIZE, SIZE, SIZE).double().eval()
    learner = FEAT(model=Embeddings(), heads=2, temperature=1.0).double()
    names = {"query": "w_qs", "key": "w_ks", "value": "w_vs", "out": "fc", "norm": "layer_norm"}
    for name, other in names.items():
        getattr(learner.attention, name).load_state_dict(getattr(attention, other).state_dict())
    expected = theirs(easyfsl.FEAT(nn.Identity(), attention_module=attention), tasks)
    torch.testing.assert_close(-(-ours(learner, tasks)).sqrt(), expected, rtol=0, atol=1e-10)


def test_bdcspn(easyfsl: ModuleType) -> None:
    learner = pretrained(BDCSPN, epsilon=1.0, most=None, temperature=1.0, transform="none")
    agree(ours(learner, batch()), theirs(easyfsl.BDCSPN(nn.Identity()), batch()))


def test_laplacianshot(easyfsl: ModuleType) -> None:
    learner = pretrained(LaplacianShot, transform="l2")
    method = easyfsl.LaplacianShot(nn.Identity(), feature_normalization=2)
    # It stops where a bound changes by less than a millionth.
    agree(ours(learner, batch()).softmax(2), theirs(method, batch()), 1e-4)


def test_tim(easyfsl: ModuleType) -> None:
    keys = {"steps": 50, "cross_entropy": 1.0, "temperature": 10.0, "similarity": "cosine", "lr": 1e-2}
    learner = pretrained(TIM, transform="none", **keys)
    method = easyfsl.TIM(nn.Identity(), use_softmax=True, fine_tuning_lr=1e-2)
    agree(ours(learner, batch()).softmax(2), theirs(method, batch()), 1e-7)
    start = pretrained(TIM, transform="none", **{**keys, "steps": 0})
    assert (ours(start, batch()) - ours(learner, batch())).abs().max() > 0.1


def test_pt_map(easyfsl: ModuleType) -> None:
    class Converged(easyfsl.PTMAP):
        """It stops where totals change by less than a millionth, which can be far from the plan."""

        def compute_optimal_transport(self, cost_matrix: Tensor, epsilon: float) -> Tensor:
            return super().compute_optimal_transport(cost_matrix, epsilon=1e-6 * epsilon)

    learner = pretrained(PTMAP, normalise=False)
    agree(ours(learner, batch()).exp(), theirs(Converged(nn.Identity()), batch()), 1e-5)
