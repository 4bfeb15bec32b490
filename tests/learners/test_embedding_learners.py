"""Learners that classify by an embedding: by hand, and against a loop over tasks with torch's own norms."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.engine.executor import Executor
from metarun.engine.meta_steps import meta_steps
from metarun.engine.settings import Engine
from metarun.errors import ConfigError
from metarun.learners import (
    FEAT,
    EmbeddingLearner,
    LogisticRegression,
    MatchingNet,
    MetaOptNet,
    ProtoNet,
    RelationNet,
    RidgeRegression,
    SoftKMeans,
)
from metarun.learners.closed_form.ridge import ridge
from metarun.learners.closed_form.svm import crammer_singer
from metarun.metagradients import Exact, Progress
from metarun.models import MLP, Conv4
from metarun.tasks import Examples, Scoring, Tasks
from metarun.tasks.metrics import ACCURACY, cross_entropy
from metarun.training.updates import assign

LEARNERS = {
    "protonet": ProtoNet,
    "cosine": lambda **given: ProtoNet(distance="cosine", **given),
    "matchingnet": MatchingNet,
    "full-context": lambda **given: MatchingNet(full_context=True, attention_steps=3, **given),
    "relationnet": lambda **given: RelationNet(loss="cross_entropy", channels=4, hidden=3, **given),
    "feat": lambda **given: FEAT(heads=2, temperature=3.0, **given),
    "soft_kmeans": lambda **given: SoftKMeans(steps=2, **given),
    "r2d2": RidgeRegression,
    "metaoptnet": lambda **given: MetaOptNet(scale=3.0, **given),
    "metaoptnet-ridge": lambda **given: MetaOptNet(solver="ridge", regularisation=0.7, **given),
    "logistic": lambda **given: LogisticRegression(regularisation=0.5, newton_steps=12, **given),
    "r2d2-learned": lambda **given: RidgeRegression(regularisation=0.5, learn_regularisation=True, **given),
}
WAY, SHOT, QUERY = 3, 2, 4
# Those for which a support set is a set.
UNORDERED = [name for name in LEARNERS if name != "full-context"]


def images(tasks: int, seed: int = 0) -> Tasks:
    """Random images whose classes differ in brightness, in random order."""
    generator = torch.Generator().manual_seed(seed)

    def examples(each: int) -> Examples:
        order = torch.stack([torch.randperm(WAY * each, generator=generator) % WAY for _ in range(tasks)])
        noise = torch.randn(tasks, WAY * each, 1, 16, 16, generator=generator, dtype=torch.float64)
        return Examples(noise + order[:, :, None, None, None], order)

    return Tasks(examples(SHOT), examples(QUERY), scoring=Scoring(cross_entropy, (ACCURACY,)))


def conv4() -> Conv4:
    torch.manual_seed(1)
    model = Conv4(input_shape=(1, 16, 16), output_size=None, filters=6)
    for p in model.parameters():  # norms with a scale and a shift of their own
        nn.init.normal_(p, std=0.5)
    return model.double()


def with_running_statistics(model: Conv4) -> nn.Sequential:
    """The same network with torch's own batch norms, which keep running statistics."""
    copy = deepcopy(model)
    for block in copy.body:
        norm = nn.BatchNorm2d(6).double()
        norm.load_state_dict(block.norm.state_dict(), strict=False)
        block.norm = norm
    return copy


def in_full_context(learner: MatchingNet, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Appendix A of the paper, example by example, with the gates of the LSTMs written out."""

    def lstm(
        weights: dict[str, Tensor], suffix: str, x: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        gates = sum(
            weights[f"weight_{kind}{suffix}"] @ value + weights[f"bias_{kind}{suffix}"]
            for kind, value in (("ih", x), ("hh", h))
        )
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def along(order: range, suffix: str) -> dict[int, Tensor]:
        weights, outputs = dict(learner.support_lstm.named_parameters()), {}
        h = c = torch.zeros_like(support[0])
        for i in order:
            h, c = lstm(weights, suffix, support[i], h, c)
            outputs[i] = h
        return outputs

    n = len(support)
    forward, backward = along(range(n), "_l0"), along(range(n - 1, -1, -1), "_l0_reverse")
    embedded = torch.stack([forward[i] + backward[i] + support[i] for i in range(n)])
    weights, queries = dict(learner.query_lstm.named_parameters()), []
    for x in query:
        h, c = x, torch.zeros_like(x)
        for _ in range(3):
            readout = (embedded @ h).softmax(0) @ embedded
            h, c = lstm(weights, "", torch.cat([x, readout]), h, c)
            h = h + x
        queries.append(h)
    return embedded, torch.stack(queries)


def support_vectors(f: Tensor, y: Tensor, bound: float = 0.1) -> Tensor:
    """The weights: which bounds are active is found without a graph, the linear system is solved with one."""
    n, way = y.shape
    quadratic = torch.kron(f @ f.T + torch.eye(n, dtype=f.dtype), torch.eye(way, dtype=f.dtype))
    sums = torch.kron(torch.eye(n, dtype=f.dtype), torch.ones(1, way, dtype=f.dtype))
    linear, upper = -y.flatten(), bound * y.flatten()
    with torch.no_grad():
        active = crammer_singer((f @ f.T)[None], y[None], bound, 20)[0].flatten() > upper - 1e-9
    rows = torch.eye(n * way, dtype=f.dtype)[active]
    corner = torch.zeros(n + len(rows), n + len(rows), dtype=f.dtype)
    matrix = torch.cat(
        [torch.cat([quadratic, sums.T, rows.T], 1), torch.cat([torch.cat([sums, rows]), corner], 1)]
    )
    right = torch.cat([-linear, torch.zeros(n, dtype=f.dtype), upper[active]])
    solution = torch.linalg.lstsq(matrix, right[:, None], driver="gelsd").solution
    return f.T @ solution[: n * way].view(n, way)


def by_newton(z: Tensor, y: Tensor) -> Tensor:
    """The weights of logistic regression by full Newton steps, with the graph of every step."""
    weights = torch.zeros(z.shape[1], WAY, dtype=z.dtype)
    for _ in range(12):
        p = (z @ weights).softmax(1)
        curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        hessian = torch.einsum("ni,nab,nj->iajb", z, curvature, z).reshape(z.shape[1] * WAY, -1)
        hessian = hessian + 0.5 * torch.eye(len(hessian), dtype=z.dtype)
        gradient = z.T @ (p - y) + 0.5 * weights
        weights = weights - torch.linalg.solve(hessian, gradient.flatten()).view(weights.shape)
    return weights


def attended(learner: FEAT, prototypes: Tensor) -> Tensor:
    """The adapted prototypes, head by head."""
    size, layers = prototypes.shape[1], learner.attention
    outputs = []
    for head in range(2):
        rows = slice(head * size, (head + 1) * size)
        query, key, value = (
            prototypes @ layer.weight[rows].T for layer in (layers.query, layers.key, layers.value)
        )
        outputs.append((query @ key.T / size**0.5).softmax(1) @ value)
    joined = torch.cat(outputs, 1) @ layers.out.weight.T + layers.out.bias
    return F.layer_norm(joined + prototypes, (size,), layers.norm.weight, layers.norm.bias)


def compared(learner: RelationNet, pairs: Tensor) -> Tensor:
    """The relation module with torch's own batch statistics; maps of 1 × 1 pixels are not pooled."""
    weights = dict(learner.relation.named_parameters())
    for block in ("block1", "block2"):
        pairs = F.conv2d(pairs, weights[f"{block}.0.weight"], weights[f"{block}.0.bias"], padding=1)
        norm = weights[f"{block}.1.weight"], weights[f"{block}.1.bias"]
        pairs = F.batch_norm(pairs, None, None, *norm, training=True).relu()
    hidden = F.linear(pairs.flatten(1), weights["hidden.weight"], weights["hidden.bias"]).relu()
    return F.linear(hidden, weights["score.weight"], weights["score.bias"])


def classify(name: str, learner: EmbeddingLearner, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """The logits of one task, written again: support [n, d], query [m, d]."""
    y = torch.eye(WAY, dtype=query.dtype)[labels]
    if name.startswith(("r2d2", "metaoptnet", "logistic")):
        return by_weights(name, learner, support, y, query)
    if name == "relationnet":
        shape = learner.feature_shape
        sums = (y.T @ support).view(WAY, *shape)
        pairs = [torch.cat([c, q.view(shape)]) for q in query for c in sums]
        return compared(learner, torch.stack(pairs)).view(len(query), WAY)
    if name in ("matchingnet", "full-context"):
        if name == "full-context":
            support, query = in_full_context(learner, support, query)
        similarity = F.cosine_similarity(query[:, None], support[None], dim=2)
        return (similarity.softmax(1) @ y).log()
    means = torch.stack([support[labels == label].mean(0) for label in range(WAY)])
    if name == "feat":
        return -torch.cdist(query, attended(learner, means)).square() / 3.0
    if name == "soft_kmeans":
        for _ in range(2):
            shares = (-torch.cdist(query, means).square()).softmax(1)
            means = (y.T @ support + shares.T @ query) / (SHOT + shares.sum(0))[:, None]
    if name == "cosine":
        return learner.temperature * F.cosine_similarity(query[:, None], means[None], dim=2)
    return -torch.cdist(query, means).square()


def by_weights(name: str, learner: EmbeddingLearner, support: Tensor, y: Tensor, query: Tensor) -> Tensor:
    """The logits of a linear classifier, whose weights are solved for anew."""
    if name == "metaoptnet":
        return learner.scale * query @ support_vectors(support, y)
    if name == "metaoptnet-ridge":
        inverse = torch.linalg.inv(support.T @ support + 0.7 * torch.eye(support.shape[1], dtype=y.dtype))
        return learner.scale * query @ (inverse @ support.T @ y)
    z, query = (F.pad(each, (0, 1), value=1.0) for each in (support, query))
    if name == "logistic":
        return learner.scale * query @ by_newton(z, y)
    strength = 50.0 if name == "r2d2" else learner.log_regularisation.exp()
    z, y = z / len(support) ** 0.5, y / len(support) ** 0.5
    weights = torch.linalg.solve(z.T @ z + strength * torch.eye(z.shape[1], dtype=z.dtype), z.T @ y)
    return learner.scale * query @ weights + learner.bias


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_meta_step_is_that_of_a_loop_over_tasks(name: str, chunk: int) -> None:
    model, tasks = conv4(), images(5)
    reference = with_running_statistics(model)
    learner = LEARNERS[name](model=model).double()
    executor = Executor(Engine(chunk=chunk), learner)
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), executor)

    shots, losses, buffers = WAY * SHOT, [], []
    for t in range(5):
        own = deepcopy(reference)
        own.load_state_dict(reference.state_dict())
        for p, q in zip(own.parameters(), reference.parameters(), strict=True):
            p.requires_grad_(False)
            assert torch.equal(p, q)
        state = dict(reference.named_parameters())
        features = torch.func.functional_call(
            own, state, (torch.cat([tasks.support.x[t], tasks.query.x[t]]),)
        )
        logits = classify(name, learner, features[:shots], tasks.support.y[t], features[shots:])
        losses.append(F.cross_entropy(logits, tasks.query.y[t]))
        buffers.append({n: b for n, b in own.named_buffers() if "running" in n})
    torch.testing.assert_close(step.scores["loss"], torch.stack(losses), rtol=1e-10, atol=1e-10)
    others = {n: p for n, p in learner.named_parameters() if not n.startswith("model.") and p.requires_grad}
    wanted = [*reference.parameters(), *others.values()]
    expected = torch.autograd.grad(torch.stack(losses).mean(), wanted)
    names = [f"model.{n}" for n, _ in reference.named_parameters()] + list(others)
    for parameter, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(step.gradients[parameter], gradient, rtol=1e-9, atol=1e-12)

    assign(learner, step.assignments)  # running statistics: the mean of what torch makes of each task
    now = dict(learner.named_buffers())
    assert len(buffers[0]) == 8
    for name_of, value in buffers[0].items():
        mean = torch.stack([each[name_of] for each in buffers]).mean(0)
        torch.testing.assert_close(now[f"model.{name_of}"], mean, rtol=1e-10, atol=1e-12)
        assert not torch.equal(mean, value)


@pytest.mark.parametrize("name", LEARNERS)
def test_at_test_each_example_is_alone_unless_transductive(name: str) -> None:
    tasks = images(3)
    learner = LEARNERS[name](model=conv4()).double()
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=3), learner))
    assign(learner, step.assignments)
    before = {n: b.clone() for n, b in learner.named_buffers()}
    few = slice(0, 5)

    def difference(transductive: bool) -> float:
        learner.transductive = transductive
        with learner.evaluating(), torch.no_grad():
            adapted = learner.adapt(tasks.without_answers())
            whole = learner.predict(adapted, tasks.query.x)
            return (learner.predict(adapted, tasks.query.x[:, few]) - whole[:, few]).abs().max().item()

    if name != "soft_kmeans":
        assert difference(transductive=False) < 1e-12
    assert difference(transductive=True) > 1e-4
    assert all(torch.equal(b, before[n]) for n, b in learner.named_buffers())  # a test changes nothing


def test_with_running_statistics_a_test_is_what_torch_computes_in_evaluation_mode() -> None:
    model = conv4()
    reference = with_running_statistics(model)
    learner, tasks = ProtoNet(model=model).double(), images(2)
    for _ in range(3):
        (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=2), learner))
        assign(learner, step.assignments)
    reference.load_state_dict(
        {n.removeprefix("model."): t for n, t in learner.state_dict().items()}, strict=False
    )
    reference.eval()
    with learner.evaluating(), torch.no_grad():
        logits = learner.predict(learner.adapt(tasks), tasks.query.x)
        for t in range(2):
            support, query = reference(tasks.support.x[t]), reference(tasks.query.x[t])
            expected = classify("protonet", learner, support, tasks.support.y[t], query)
            torch.testing.assert_close(logits[t], expected, rtol=1e-10, atol=1e-10)


def test_prototypes_by_hand() -> None:
    learner = ProtoNet(model=nn.Identity())
    labels = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    prototypes = learner.fit(torch.tensor([[[0.0, 0.0], [4.0, 0.0], [2.0, 2.0]]]), labels)
    assert prototypes.tolist() == [[[1.0, 1.0], [4.0, 0.0]]]
    assert learner.classify(prototypes, torch.tensor([[[1.0, 3.0]]])).tolist() == [[[-4.0, -18.0]]]


@pytest.mark.parametrize(("examples", "size"), [(4, 9), (9, 9), (12, 3)])
def test_ridge_regression_is_the_least_squares_of_a_longer_system(examples: int, size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2, examples, size, generator=generator, dtype=torch.float64)
    y = torch.randn(2, examples, 3, generator=generator, dtype=torch.float64)
    weights = ridge(z, y, 0.7)
    longer = torch.cat([z, 0.7**0.5 * torch.eye(size, dtype=torch.float64).expand(2, -1, -1)], 1)
    expected = torch.linalg.lstsq(
        longer, torch.cat([y, torch.zeros(2, size, 3, dtype=torch.float64)], 1)
    ).solution
    torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)
    strength = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ridge, (z.requires_grad_(), y.requires_grad_(), strength))


@pytest.mark.parametrize("name", UNORDERED)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_order_of_the_support_set_does_not_matter_and_labels_may_be_swapped(name: str, seed: int) -> None:
    tasks, learner = images(2, seed), LEARNERS[name](model=conv4()).double()
    generator = torch.Generator().manual_seed(seed)
    order, relabel = (torch.randperm(n, generator=generator) for n in (WAY * SHOT, WAY))

    def logits(support: Examples) -> Tensor:
        other = Tasks(support, tasks.query)
        with torch.no_grad():
            return learner.predict(learner.adapt(other), other.query.x)

    expected = logits(tasks.support)
    torch.testing.assert_close(logits(tasks.support.take(order)), expected, rtol=1e-9, atol=1e-9)
    swapped = logits(Examples(tasks.support.x, relabel[tasks.support.y]))
    torch.testing.assert_close(swapped[..., relabel], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in UNORDERED if name != "relationnet"])
def test_padding_does_not_count(name: str) -> None:
    torch.manual_seed(0)
    learner = LEARNERS[name](model=MLP(input_shape=(4,), output_size=None, hidden=(5,))).double()
    x, y = torch.randn(1, 6, 4, dtype=torch.float64), torch.tensor([[0, 1, 0, 1, 1, 0]])
    query = Examples(torch.randn(1, 3, 4, dtype=torch.float64), torch.tensor([[0, 1, 1]]))
    mask = torch.tensor([[True] * 4 + [False] * 2])
    padded = Tasks(Examples(x, torch.where(mask, y, 7), mask), query)
    short = Tasks(Examples(x[:, :4], y[:, :4]), query)
    logits = [learner.predict(learner.adapt(tasks), query.x) for tasks in (padded, short)]
    torch.testing.assert_close(logits[0], logits[1])


def test_padding_beside_batch_norms_and_targets_that_are_no_classes_are_refused() -> None:
    tasks, learner = images(2), ProtoNet(model=conv4()).double()
    learner.check(tasks)
    mask = torch.ones_like(tasks.support.y, dtype=torch.bool)
    padded = Tasks(Examples(tasks.support.x, tasks.support.y, mask), tasks.query)
    assert "batch norms would count the padding" in learner.apart(padded)
    assert not learner.apart(tasks)
    with pytest.raises(ConfigError, match="ProtoNet needs classes"):
        learner.check(Tasks(Examples(tasks.support.x, tasks.support.y.double()[..., None]), tasks.query))


def test_padding_is_read_by_a_full_context_and_a_network_without_a_size_is_refused() -> None:
    learner = MatchingNet(model=MLP(input_shape=(4,), output_size=None, hidden=(5,)), full_context=True)
    x, y = torch.randn(1, 4, 4), torch.tensor([[0, 1, 0, 1]])
    learner.check(Tasks(Examples(x, y), Examples(x, y)))
    padded = Tasks(Examples(x, y, torch.ones(1, 4, dtype=torch.bool)), Examples(x, y))
    assert learner.apart(padded) == "its full context would read the padding of smaller tasks"
    with pytest.raises(ConfigError, match="Identity has no feature maps to compare"):
        RelationNet(model=nn.Identity())
    with pytest.raises(ConfigError, match="does not tell its `features`"):
        MatchingNet(model=nn.Linear(4, 5), full_context=True)


def test_the_initial_weights_of_a_full_context_follow_from_the_seed_alone() -> None:
    def weights(seed: int) -> Tensor:
        model = MLP(input_shape=(4,), output_size=None, hidden=(5,))
        return MatchingNet(model=model, full_context=True, seed=seed).query_lstm.weight_ih

    before = torch.get_rng_state()
    first = weights(1)
    torch.manual_seed(7)
    assert torch.equal(first, weights(1))
    assert not torch.equal(first, weights(2))
    torch.set_rng_state(before)


def test_the_published_loss_of_a_relation_network_is_the_square_error_of_its_scores() -> None:
    tasks, learner = images(3), RelationNet(model=conv4(), channels=4, hidden=3).double()
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=3), learner))
    logits = learner.predict(learner.adapt(tasks), tasks.query.x)
    expected = [
        F.mse_loss(z.sigmoid(), F.one_hot(y).double()) for z, y in zip(logits, tasks.query.y, strict=True)
    ]
    torch.testing.assert_close(step.scores["loss"], torch.stack(expected), rtol=1e-10, atol=1e-12)
    with learner.evaluating(), torch.no_grad():
        adapted = learner.adapt(tasks)
        logits = learner.predict(adapted, tasks.query.x)
        torch.testing.assert_close(
            learner.scores(adapted, tasks)["loss"], cross_entropy(logits, tasks.query.y)
        )


def test_the_relation_module_keeps_running_statistics_of_its_own() -> None:
    tasks, learner = images(2), RelationNet(model=conv4(), channels=4, hidden=3).double()
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=1), learner))
    assert len([name for name in step.assignments if name.startswith("relation.block")]) == 4
    before = step.assignments
    (step,) = meta_steps(Exact(), learner, tasks, Progress(), Executor(Engine(chunk=2), learner))
    assert all(torch.allclose(before[name], change) for name, change in step.assignments.items())
