"""Multinomial logistic regression on embeddings, by a few Newton steps for all tasks at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.fields import Count
from metarun.learners.closed_form.ridge import with_ones
from metarun.learners.embedding_learner import EmbeddingLearner

Positive = Annotated[float, Field(gt=0, lt=1e12)]

# A task with a smaller residual is solved.
_SOLVED = 1e-12
# Newton steps of these lengths are tried, and the best is taken.
_LENGTHS = tuple(2.0**-k for k in range(8))


class LogisticRegression(EmbeddingLearner):
    """Logits are s · [f(x), 1] W, with W = argmin Σ_i cross-entropy of z_i W + λ/2 ‖W‖², z_i = [f(x_i), 1].

    The multi-class form of LR-D2 (Bertinetto, Henriques, Torr & Vedaldi 2019, arXiv:1805.08136, section 3.3).
    The column of ones gives the bias, which is regularised, too. The problem is always solved in float64.

    Args:
        regularisation: λ; scikit-learn's C is 1/λ.
        newton_steps: Newton steps from W = 0; each has the best of eight lengths.
        scale: initial value of s, which is learned.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model"})

    def __init__(
        self, *, regularisation: Positive = 1.0, newton_steps: Count = 8, scale: Positive = 1.0, **shared: Any
    ) -> None:
        super().__init__(**shared)
        self.regularisation: float = regularisation
        self.newton_steps = newton_steps
        self.scale = nn.Parameter(torch.tensor(scale))

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weights W, [T, features + 1, classes]."""
        z = (with_ones(features) * labels.sum(2, keepdim=True)).double()  # without padding
        return logistic(z, labels.double(), self.regularisation, self.newton_steps).to(features.dtype)

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        return self.scale * (with_ones(features) @ classifier)


def logistic(z: Tensor, y: Tensor, regularisation: float, steps: int) -> Tensor:
    """Return argmin_W Σ_i −y_i · log softmax(z_i W) + λ/2 ‖W‖², [T, d, k], differentiable in z.

    Rows of z and y that are zero are padding. With fewer examples than dimensions, the unknown is A in
    W = zᵀ A. The derivative is that of the implicit function theorem, computed as the derivative of one more
    Newton step from the detached solution.

    Args:
        z: examples, [T, n, d].
        y: one-hot labels, [T, n, k].
        regularisation: λ.
        steps: largest number of Newton steps.
    """
    if z.shape[1] <= z.shape[2]:
        return z.mT @ _minimise(_InExamples(z @ z.mT, y, regularisation), steps)
    return _minimise(_InWeights(z, y, regularisation), steps)


class _Problem(ABC):
    """Finds θ [T, m, k], where logits are R θ, and λ θ + L (softmax(R θ) − y) = 0 at the optimum.

    Args:
        right: R, [T, n, m].
        y: one-hot labels, [T, n, k]; zeros for padding, whose probabilities do not count.
        regularisation: λ.
    """

    def __init__(self, right: Tensor, y: Tensor, regularisation: float) -> None:
        self.right, self.y, self.regularisation = right, y, regularisation
        self._counts = y.sum(2, keepdim=True)

    def probabilities(self, theta: Tensor) -> Tensor:
        return self._counts * (self.right @ theta).softmax(-1)

    def residual(self, theta: Tensor) -> Tensor:
        return self.regularisation * theta + self.left(self.probabilities(theta) - self.y)

    def objective(self, theta: Tensor) -> Tensor:
        """Return [lengths, T] for θ [lengths, T, m, k]."""
        losses = -(self.y * (self.right @ theta).log_softmax(3)).sum((2, 3))
        squares: Tensor = (theta * self.metric(theta)).sum((2, 3))
        return losses + self.regularisation / 2 * squares

    @abstractmethod
    def left(self, gradient: Tensor) -> Tensor:
        """Return L times a gradient with respect to logits, [T, n, k]."""

    @abstractmethod
    def metric(self, theta: Tensor) -> Tensor:
        """Return M θ, where λ/2 tr θᵀ M θ is the penalty."""

    @abstractmethod
    def newton(self, p: Tensor, residual: Tensor) -> Tensor:
        """Return the Newton step for a residual, at probabilities p [T, n, k] without a graph."""


class _InWeights(_Problem):
    """θ = W, R = z, L = zᵀ."""

    def left(self, gradient: Tensor) -> Tensor:
        return self.right.mT @ gradient

    def metric(self, theta: Tensor) -> Tensor:
        return theta

    def newton(self, p: Tensor, residual: Tensor) -> Tensor:
        z, curvature = self.right.detach(), torch.diag_embed(p) - p[..., None] * p[:, :, None]
        matrix = torch.einsum("tia,tick,tib->tacbk", z, curvature, z)
        return -_solve_shifted(matrix, self.regularisation, residual)


class _InExamples(_Problem):
    """θ = A with W = zᵀ A, R = K = z zᵀ, L = 1.

    A Newton step is −(λ + J K)⁻¹ r, with J_i = diag(p_i) − p_i p_iᵀ. With U_i = diag(√p_i) (1 − √p_i √p_iᵀ),
    J = U Uᵀ, and the step is −(r − U (λ + Uᵀ K U)⁻¹ Uᵀ K r)/λ, which inverts a symmetric matrix (Woodbury).
    """

    def left(self, gradient: Tensor) -> Tensor:
        return gradient

    def metric(self, theta: Tensor) -> Tensor:
        return self.right @ theta

    def newton(self, p: Tensor, residual: Tensor) -> Tensor:
        kernel, root = self.right.detach(), p.sqrt()
        u = torch.diag_embed(root) - p[..., None] * root[:, :, None]  # since √p_i has length 1
        tasks, n, classes = residual.shape
        rows = u.mT.reshape(tasks, n * classes, classes)
        products = (rows @ rows.mT).view(tasks, n, classes, n, classes)  # U_iᵀ U_j
        matrix = kernel[:, :, None, :, None] * products
        right = torch.einsum("tica,tic->tia", u, kernel @ residual)
        inner = _solve_shifted(matrix, self.regularisation, right)
        return (torch.einsum("tica,tia->tic", u, inner) - residual) / self.regularisation


def _solve_shifted(matrix: Tensor, shift: float, right: Tensor) -> Tensor:
    """Return (M + shift)⁻¹ right, for M [T, m, k, m, k] and right [T, m, k]."""
    size = right.shape[1] * right.shape[2]
    shifted = matrix.reshape(-1, size, size) + shift * torch.eye(size, dtype=right.dtype, device=right.device)
    factor = torch.linalg.cholesky(shifted)
    return torch.cholesky_solve(right.flatten(1)[..., None], factor).view(right.shape)


def _minimise(problem: _Problem, steps: int) -> Tensor:
    with torch.no_grad():
        y, tasks = problem.y, torch.arange(len(problem.y), device=problem.y.device)
        theta = y.new_zeros(len(y), problem.right.shape[2], y.shape[2])
        lengths = y.new_tensor(_LENGTHS)[:, None, None, None]
        for _ in range(steps):
            residual = problem.residual(theta)
            is_solved = residual.abs().amax((1, 2)) < _SOLVED
            if is_solved.all():
                break
            tried = theta + lengths * problem.newton(problem.probabilities(theta), residual)
            best = tried[problem.objective(tried).argmin(0), tasks]
            theta = torch.where(is_solved[:, None, None], theta, best)
        p = problem.probabilities(theta)
    return theta + problem.newton(p, problem.residual(theta))
