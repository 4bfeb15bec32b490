"""The support vector machine and logistic regression: against scipy, scikit-learn and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import LinearConstraint, minimize
from sklearn import linear_model
from sklearn.svm import LinearSVC
from torch import Tensor
from torch.nn import functional as F

from metarun.learners import LogisticRegression, MetaOptNet
from metarun.learners.closed_form.logistic import logistic
from metarun.learners.closed_form.svm import crammer_singer

N, WAY, BOUND = 9, 3, 0.1


def examples(tasks: int, n: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tasks, n, size, generator=generator, dtype=torch.float64)
    labels = torch.arange(n).remainder(WAY).expand(tasks, n)
    return x, F.one_hot(labels, WAY).double()


def test_the_dual_is_solved_as_by_scipys_general_solver() -> None:
    f, y = examples(3, N, 6)
    kernel = f @ f.mT
    found = crammer_singer(kernel, y, BOUND, 15)
    assert found.sum(2).abs().max() < 1e-12
    assert (found - BOUND * y).max() < 1e-12
    sums = np.kron(np.eye(N), np.ones((1, WAY)))
    for t in range(3):
        quadratic = np.kron((kernel[t] + torch.eye(N)).numpy(), np.eye(WAY))
        linear, upper = -y[t].numpy().ravel(), BOUND * y[t].numpy().ravel()
        result = minimize(
            lambda a, q=quadratic, e=linear: 0.5 * a @ q @ a + e @ a,
            np.zeros(N * WAY),
            jac=lambda a, q=quadratic, e=linear: q @ a + e,
            bounds=[(None, u) for u in upper],
            constraints=LinearConstraint(sums, 0, 0),
            method="SLSQP",
            options={"maxiter": 1000, "ftol": 1e-15},
        )
        assert np.abs(result.x.reshape(N, WAY) - found[t].numpy()).max() < 1e-8


@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_without_the_ones_on_its_diagonal_it_is_scikit_learns_machine(bound: float) -> None:
    f, _ = examples(1, 40, 6)
    labels = (f[0] @ torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double()).argmax(1)
    machine = LinearSVC(multi_class="crammer_singer", C=bound, fit_intercept=False, tol=1e-12, max_iter=10**6)
    machine.fit(f[0].numpy(), labels.numpy())
    dual = crammer_singer(f @ f.mT, F.one_hot(labels, 4).double()[None], bound, 30, diagonal=1e-9)
    expected = torch.from_numpy(machine.decision_function(f[0].numpy()))
    torch.testing.assert_close((f @ (f.mT @ dual))[0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e2])
def test_fifteen_iterations_are_enough_for_small_and_large_embeddings(scale: float) -> None:
    f, y = examples(4, 75, 64)
    kernel = (scale * f) @ (scale * f).mT
    few, many = (crammer_singer(kernel, y, BOUND, iterations) for iterations in (15, 60))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-10)


@pytest.mark.parametrize("strength", [0.1, 1.0])
@pytest.mark.parametrize("size", [12, 5])  # more dimensions than examples, and fewer
def test_logistic_regression_is_scikit_learns(size: int, strength: float) -> None:
    z, y = examples(2, N, size)
    weights = logistic(2 * z, y, strength, 8)
    for t in range(2):
        model = linear_model.LogisticRegression(
            C=1 / strength, fit_intercept=False, tol=1e-12, max_iter=10**5, solver="newton-cholesky"
        ).fit(2 * z[t].numpy(), y[t].argmax(1).numpy())
        expected = torch.from_numpy(model.predict_proba(z[t].numpy()))
        torch.testing.assert_close((z[t] @ weights[t]).softmax(1), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [12, 5])
def test_their_gradients_are_finite_differences(size: int) -> None:
    f, y = examples(2, N, size)
    f.requires_grad_()
    assert torch.autograd.gradcheck(lambda f: f.mT @ crammer_singer(f @ f.mT, y, BOUND, 20), (f,))
    assert torch.autograd.gradcheck(lambda f: logistic(f, y, 0.5, 12), (f,))


def test_separable_examples_of_any_length_stay_finite_in_float32() -> None:
    y = examples(2, N, 6)[1].float()
    f = 1e3 * (y @ torch.eye(WAY, 6) + 1e-3)
    for learner in (MetaOptNet(model=torch.nn.Identity()), LogisticRegression(model=torch.nn.Identity())):
        f.requires_grad_()
        logits = learner.classify(learner.fit(f, y), f)
        assert (logits.argmax(2) == y.argmax(2)).all()
        gradient = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), y.argmax(2).flatten()), f)[0]
        assert gradient.isfinite().all()
