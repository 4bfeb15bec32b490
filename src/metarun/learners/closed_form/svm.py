"""MetaOptNet: a support vector machine on embeddings; its dual is solved for all tasks at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.fields import Count
from metarun.learners.closed_form.interior_point import Dual, solve
from metarun.learners.closed_form.ridge import ridge
from metarun.learners.embedding_learner import EmbeddingLearner

Positive = Annotated[float, Field(gt=0, lt=1e12)]


class MetaOptNet(EmbeddingLearner):
    """Logits are s · f(x) W, with W the weights of a multi-class support vector machine.

    Lee, Maji, Ravichandran & Soatto 2019, "Meta-Learning with Differentiable Convex Optimization",
    arXiv:1904.03758, equations 6 to 8 (Crammer & Singer 2001). As in the authors' code, 1 is added to the
    diagonal of the dual. The dual is always solved in float64.

    Args:
        solver: `svm`; or `ridge`: ridge regression without a bias, the paper's MetaOptNet-RR.
        regularisation: `svm`: the upper bound C of a dual variable; `ridge`: λ; null: 0.1 or 50.
        iterations: iterations of the interior-point method.
        scale: initial value of s, which is learned.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model"})

    def __init__(
        self,
        *,
        solver: Literal["svm", "ridge"] = "svm",
        regularisation: Positive | None = None,
        iterations: Count = 15,
        scale: Positive = 1.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.solver, self.iterations = solver, iterations
        self.regularisation = regularisation or (0.1 if solver == "svm" else 50.0)
        self.scale = nn.Parameter(torch.tensor(scale))

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weights W, [T, features, classes]."""
        features = features * labels.sum(2, keepdim=True)  # without padding
        if self.solver == "ridge":
            return ridge(features, labels, self.regularisation)
        f = features.double()
        dual = crammer_singer(f @ f.mT, labels.double(), self.regularisation, self.iterations)
        return (f.mT @ dual).to(features.dtype)

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        return self.scale * (features @ classifier)


def crammer_singer(
    kernel: Tensor, labels: Tensor, bound: float, iterations: int, *, diagonal: float = 1.0
) -> Tensor:
    """Return the dual variables A [T, n, classes] of a multi-class support vector machine.

    A = argmin ½ Σ_c A_cᵀ (K + δ) A_c − Σ_i A_{i, y_i}, where A ≤ C · onehot(y) and every row of A sums to 0.

    Args:
        kernel: K, [T, n, n]; rows and columns of padding are zero.
        labels: one-hot, [T, n, classes]; zeros for padding, whose variables are 0.
        bound: C.
        iterations: iterations of the interior-point method.
        diagonal: δ, which makes the solution unique.
    """
    is_padding = labels.sum(2, keepdim=True) == 0
    identity = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    # Variables of padding stay at 0; the loose bound of 1 keeps them away from the constraints.
    problem = Dual(kernel + diagonal * identity, -labels, torch.where(is_padding, 1.0, bound * labels))
    return solve(problem, iterations)
