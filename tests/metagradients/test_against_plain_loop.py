"""The engine against a plain loop over tasks and against the package `higher`, in float64."""

from __future__ import annotations

import warnings

import higher
import pytest
import torch
from plain_loop import STEPS, TASKS, Gradients, by_engine, fill, gradients, network, task_batch, worst
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metarun.engine.settings import Engine
from metarun.learners import GradientAdaptation, InnerLoop
from metarun.metagradients import Exact, FirstOrder, MetaGradient, Reptile
from metarun.models import Linear
from metarun.rules import SGD, Adam, LearnedRates, UpdateRule
from metarun.tasks import BinaryClassification, Examples, Scoring, Tasks
from metarun.tasks.metrics import mean_squared_error

RATE, EPS = 0.05, 0.1

ALGORITHMS = {
    "maml": (SGD, Exact, "all"),
    "fomaml": (SGD, FirstOrder, "all"),
    "reptile": (Adam, Reptile, "all"),
    "metasgd": (LearnedRates, Exact, "all"),
    "anil": (SGD, Exact, "head"),
    "maml-adam": (Adam, Exact, "all"),
}
MODELS = [
    "linear",
    "mlp",
    "mlp-batch",
    "mlp-layer",
    "conv4-none",
    "conv4-batch",
    "conv4-group",
    "conv4-layer",
    "conv4-stride-batch",
    "conv4-stride-batch-mean",
    "mlp-vmapped",
    "conv4-batch-vmapped",
]


def make_learner(algorithm: str, model: str) -> tuple[GradientAdaptation, MetaGradient]:
    make_rule, make_metagradient, adapts = ALGORITHMS[algorithm]
    # Where a gradient is zero (a bias before a batch norm) only eps keeps Adam from magnifying rounding.
    options = {"beta1": 0.0, "eps": EPS} if make_rule is Adam else {}
    learner = GradientAdaptation(
        model=network(model),
        rule=make_rule(lr=RATE, **options),
        loop=InnerLoop(steps=STEPS),
        adapts=adapts,
    ).double()
    for rate in learner.rule.parameters():  # every entry its own rate, some of them negative
        nn.init.normal_(rate, mean=RATE, std=RATE)
    return learner, make_metagradient()


def by_plain_loop(algorithm: str, learner: GradientAdaptation, batch: Tasks) -> Gradients:
    """One task after another with torch.autograd.grad; nothing of the engine but the model and the loss."""
    learner.zero_grad()
    model = learner.model
    initial = dict(model.named_parameters())
    adapted_names = [n for n in initial if algorithm != "anil" or n.startswith("head.")]
    rates = {
        n: learner.rule.rates[n.replace(".", "/")] if algorithm == "metasgd" else RATE for n in adapted_names
    }
    for t in range(TASKS):
        params = dict(initial)
        second_moment = {n: torch.zeros_like(p) for n, p in initial.items()}
        for step in range(STEPS):
            loss = task_loss(learner, params, batch, batch.support, t)
            exact = algorithm not in ("fomaml", "reptile")
            found = torch.autograd.grad(loss, [params[n] for n in adapted_names], create_graph=exact)
            for n, g in zip(adapted_names, found, strict=True):
                if algorithm in ("reptile", "maml-adam"):
                    second_moment[n] = 0.999 * second_moment[n] + 0.001 * g**2
                    unbiased = second_moment[n] / (1 - 0.999 ** (step + 1))
                    params[n] = params[n] - RATE * g / (unbiased.clamp_min(1e-30).sqrt() + EPS)
                else:
                    params[n] = params[n] - rates[n] * g
        if algorithm == "reptile":
            for n, p in initial.items():
                difference = (p - params[n]).detach() / TASKS
                p.grad = difference if p.grad is None else p.grad + difference
        else:
            (task_loss(learner, params, batch, batch.query, t) / TASKS).backward()
    return gradients(learner)


def task_loss(
    learner: GradientAdaptation, params: dict[str, Tensor], batch: Tasks, examples: Examples, t: int
) -> Tensor:
    predictions = functional_call(learner.model, params, (examples.x[t],))
    return batch.scoring.loss(predictions[None], examples.y[t : t + 1])[0]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_equals_a_plain_loop_over_tasks(algorithm: str, model: str) -> None:
    learner, metagradient = make_learner(algorithm, model)
    batch = task_batch(model)
    expected = by_plain_loop(algorithm, learner, batch)
    assert worst(by_engine(learner, metagradient, batch, chunk=TASKS), expected) < 1e-8


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("algorithm", ["maml", "fomaml", "reptile", "metasgd", "anil"])
def test_equals_higher(algorithm: str, model: str) -> None:
    learner, metagradient = make_learner(algorithm, model)
    if algorithm == "reptile":  # higher's Adam adds eps elsewhere; test_rules has Adam against torch.optim's
        learner.rule = SGD(lr=RATE)
    batch = task_batch(model)
    found = by_engine(learner, metagradient, batch, chunk=TASKS)

    learner.zero_grad()
    initial = dict(learner.model.named_parameters())
    names = [n for n in initial if algorithm != "anil" or n.startswith("head.")]
    one_by_one = [{"params": [initial[n]]} for n in names]
    rates = [learner.rule.rates[n.replace(".", "/")] if algorithm == "metasgd" else RATE for n in names]
    optimizer = torch.optim.SGD(one_by_one, lr=RATE)
    exact = algorithm in ("maml", "metasgd", "anil")
    for t in range(TASKS):
        with higher.innerloop_ctx(
            learner.model, optimizer, copy_initial_weights=False, track_higher_grads=exact
        ) as (model_t, optimizer_t):
            for _ in range(STEPS):
                loss = batch.scoring.loss(model_t(batch.support.x[t])[None], batch.support.y[t : t + 1])[0]
                optimizer_t.step(loss, override={"lr": rates})
            query = batch.scoring.loss(model_t(batch.query.x[t])[None], batch.query.y[t : t + 1])[0]
            if exact:
                (query / TASKS).backward()
                continue
            # Without its graph, higher leaves the adapted parameters as leaves.
            adapted = list(model_t.parameters())
            first_order = torch.autograd.grad(query, adapted)
            for p, phi, g in zip(initial.values(), adapted, first_order, strict=True):
                part = (g if algorithm == "fomaml" else (p - phi).detach()) / TASKS
                p.grad = part if p.grad is None else p.grad + part
    assert worst(found, gradients(learner)) < 1e-8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_is_the_same_for_any_chunk_size(algorithm: str, chunk: int) -> None:
    learner, metagradient = make_learner(algorithm, "conv4-batch")
    batch = task_batch("conv4-batch")
    whole = by_engine(learner, metagradient, batch, chunk=TASKS)
    assert worst(by_engine(learner, metagradient, batch, chunk), whole) < 1e-10


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", ["mlp-batch", "conv4-batch", "conv4-batch-vmapped"])
def test_workers_compute_the_same_and_always_with_the_same_bits(algorithm: str, model: str) -> None:
    learner, metagradient = make_learner(algorithm, model)
    batch = task_batch(model, tasks=7)
    alone = by_engine(learner, metagradient, batch, chunk=7)
    by_three = []
    for _ in range(5):
        learner.zero_grad()
        scores = fill(learner, metagradient, batch, Engine(chunk=2, workers=3))
        by_three.append(gradients(learner))
    assert scores["loss"].shape == (7,)
    assert worst(by_three[0], alone) < 1e-8
    for again in by_three[1:]:
        assert all(torch.equal(again[name], g) for name, g in by_three[0].items())


def test_workers_follow_a_learner_to_another_type() -> None:
    learner, metagradient = make_learner("maml", "conv4-batch-vmapped")
    batch = task_batch("conv4-batch")
    fill(learner, metagradient, batch, Engine(chunk=1, workers=2))
    learner.float()
    single = batch.to(dtype=torch.float32)
    learner.zero_grad()
    fill(learner, metagradient, single, Engine(chunk=1, workers=2))
    assert {p.grad.dtype for p in learner.parameters()} == {torch.float32}


def test_comparison_notices_vmap_over_grad_through_batch_norm() -> None:
    """The hazard the engine avoids (torch 2.13): nesting vmap and grad over a batch norm, done on purpose."""
    learner, _ = make_learner("maml", "conv4-batch")
    batch = task_batch("conv4-batch")
    expected = by_plain_loop("maml", learner, batch)

    def adapted_loss(
        params: dict[str, Tensor], x: Tensor, y: Tensor, query_x: Tensor, query_y: Tensor
    ) -> Tensor:
        def support_loss(params: dict[str, Tensor]) -> Tensor:
            return nn.functional.cross_entropy(functional_call(learner.model, params, (x,)), y)

        for _ in range(STEPS):
            found = grad(support_loss)(params)
            params = {n: p - RATE * found[n] for n, p in params.items()}
        return nn.functional.cross_entropy(functional_call(learner.model, params, (query_x,)), query_y)

    learner.zero_grad()
    params = dict(learner.model.named_parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        losses = vmap(adapted_loss, in_dims=(None, 0, 0, 0, 0))(
            params, batch.support.x, batch.support.y, batch.query.x, batch.query.y
        )
    losses.mean().backward()
    error = worst({f"model.{n}": p.grad for n, p in params.items()}, expected)
    if error < 1e-8:
        pytest.skip("this version of torch differentiates a batch norm correctly under vmap and grad")
    assert error > 1e-4


def test_maml_on_linear_regression_by_hand() -> None:
    """f(x) = θ1·x + θ0, one step: H = 2/n·XᵀX of the support set, g and g' the support and query gradients,
    φ = θ − α·g(θ) and the meta-gradient is (I − αH)·g'(φ); first-order leaves the bracket out."""
    generator = torch.Generator().manual_seed(1)
    x, y, query_x, query_y = torch.randn(4, 1, 5, 1, generator=generator, dtype=torch.float64)
    theta = torch.tensor([0.7, -0.3], dtype=torch.float64)  # θ1, θ0

    def design(x: Tensor) -> Tensor:
        return torch.cat([x[0], torch.ones_like(x[0])], 1)

    def gradient(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
        return 2 / 5 * design(x).T @ (design(x) @ at - y[0, :, 0])

    phi = theta - RATE * gradient(x, y, theta)
    hessian = 2 / 5 * design(x).T @ design(x)
    first_order = gradient(query_x, query_y, phi)
    exact = (torch.eye(2, dtype=torch.float64) - RATE * hessian) @ first_order

    batch = regression(Examples(x, y), Examples(query_x, query_y))
    for metagradient, expected in ((Exact(), exact), (FirstOrder(), first_order), (Reptile(), theta - phi)):
        model = Linear(input_shape=(1,), output_size=1).double()
        with torch.no_grad():
            model.head.weight.fill_(theta[0])
            model.head.bias.fill_(theta[1])
        learner = one_step(model, SGD(lr=RATE))
        found = by_engine(learner, metagradient, batch, chunk=1)
        torch.testing.assert_close(
            torch.stack([g.squeeze() for g in found.values()]), expected, rtol=1e-12, atol=0
        )


def test_meta_sgd_rates_on_linear_regression_by_hand() -> None:
    """φ = θ − α∘g(θ), so dL'/dα = −g(θ)∘g'(φ), and dL'/dθ = (I − H·diag(α))·g'(φ)."""
    x, y = torch.tensor([[[2.0]]], dtype=torch.float64), torch.tensor([[[1.0]]], dtype=torch.float64)
    learner = one_step(Linear(input_shape=(1,), output_size=1).double(), LearnedRates(lr=0.1))
    found = by_engine(learner, Exact(), regression(Examples(x, y), Examples(x, y)), chunk=1)
    # θ = 0: the residual is −1, g = 2·(−1)·(2, 1) = (−4, −2), φ = (0.4, 0.2), the new residual
    # 0.4·2 + 0.2 − 1 = 0, so g'(φ) = 0 and every meta-gradient vanishes …
    assert all(g.abs().max() < 1e-15 for g in found.values())
    # … while against the query target 2 the residual is −1 and g' = (−4, −2): dα = −(16, 4),
    # H = 2·(2, 1)ᵀ(2, 1), H·(0.1·g') = −2·(2, 1), dθ = (−4, −2) + 2·(2, 1) = 0.
    found = by_engine(learner, Exact(), regression(Examples(x, y), Examples(x, 2 * y)), chunk=1)
    values = [g.item() for g in found.values()]
    torch.testing.assert_close(values, [0.0, 0.0, -16.0, -4.0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_maml_on_binary_classification_by_hand(loss: str) -> None:
    """Logistic regression, one step: with p = σ(Xφ), g = Xᵀ(p − y)/n and H = Xᵀdiag(p(1 − p))X/n.

    Two outputs under cross-entropy are logistic regression in their difference: for w1 = −w0 = w/2 each
    row's meta-gradient is ± that of logistic regression with twice the rate, since both rows move.
    """
    source = BinaryClassification(shot=3, query=4, loss=loss, dtype=torch.float64)
    batch = source.batch("train", 0, 1)
    theta = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64)  # two weights and the bias
    rate = RATE if loss == "binary_cross_entropy" else 2 * RATE

    def design(examples: Examples) -> Tensor:
        return torch.cat([examples.x[0], torch.ones_like(examples.x[0, :, :1])], 1)

    def gradient(examples: Examples, at: Tensor) -> Tensor:
        rows = design(examples)
        return rows.T @ ((rows @ at).sigmoid() - examples.y[0]) / len(rows)

    rows = design(batch.support)
    p = (rows @ theta).sigmoid()
    hessian = rows.T @ ((p * (1 - p))[:, None] * rows) / len(rows)
    expected = gradient(batch.query, theta - rate * gradient(batch.support, theta))
    expected = expected - rate * hessian @ expected

    model = Linear(input_shape=(2,), output_size=source.output_size).double()
    signs = torch.tensor([[1.0]] if source.output_size == 1 else [[-0.5], [0.5]], dtype=torch.float64)
    with torch.no_grad():
        model.head.weight.copy_(signs * theta[:2])
        model.head.bias.copy_(signs[:, 0] * theta[2])
    found = by_engine(one_step(model, SGD(lr=RATE)), Exact(), batch, chunk=1)
    last_row = torch.cat([found["model.head.weight"][-1], found["model.head.bias"][-1:]])
    torch.testing.assert_close(last_row, expected, rtol=1e-12, atol=1e-14)


def one_step(model: nn.Module, rule: UpdateRule) -> GradientAdaptation:
    return GradientAdaptation(model=model, rule=rule, loop=InnerLoop(steps=1)).double()


def regression(support: Examples, query: Examples) -> Tasks:
    return Tasks(support, query, scoring=Scoring(mean_squared_error))
