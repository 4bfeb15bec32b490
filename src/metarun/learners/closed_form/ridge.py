"""Ridge regression on embeddings, solved in closed form."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from metarun.learners.embedding_learner import EmbeddingLearner

Positive = Annotated[float, Field(gt=0, lt=1e12)]


class RidgeRegression(EmbeddingLearner):
    """R2D2: logits are s · [f(x), 1] W + b, with W = argmin ‖Z W − Y‖² + λ ‖W‖².

    Bertinetto, Henriques, Torr & Vedaldi 2019, "Meta-learning with differentiable closed-form solvers",
    arXiv:1805.08136, equations 4 to 6. As in the authors' code, Z has a column of ones, so the bias is
    regularised, too, and Z and the one-hot Y are divided by √n for n support examples.

    Args:
        regularisation: λ.
        learn_regularisation: whether log λ is learned; in the authors' code it is not.
        scale: initial value of s, which is learned; b starts from 0 and is learned, too.
        **shared: model and transductive (EmbeddingLearner).
    """

    needs = frozenset({"model"})

    ignores_absent_classes = True

    def __init__(
        self,
        *,
        regularisation: Positive = 50.0,
        learn_regularisation: bool = False,
        scale: Positive = 10.0,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.regularisation: float = regularisation
        self.log_regularisation: nn.Parameter | None = None
        if learn_regularisation:
            self.log_regularisation = nn.Parameter(torch.tensor(regularisation).log())
        self.scale, self.bias = nn.Parameter(torch.tensor(scale)), nn.Parameter(torch.tensor(0.0))

    def fit(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the weights W, [T, features + 1, classes]."""
        counts = labels.sum((1, 2)).sqrt()[:, None, None]  # without padding
        z = with_ones(features) * labels.sum(2, keepdim=True) / counts
        learned = self.log_regularisation
        return ridge(z, labels / counts, self.regularisation if learned is None else learned.exp())

    def classify(self, classifier: Tensor, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        return self.scale * (with_ones(features) @ classifier) + self.bias


def ridge(z: Tensor, y: Tensor, regularisation: Tensor | float) -> Tensor:
    """Return argmin_W ‖z W − y‖² + λ ‖W‖², [T, d, k], for z [T, n, d] and y [T, n, k].

    The smaller system is solved: (zᵀz + λ) W = zᵀy, or, by the Woodbury identity, W = zᵀ (zzᵀ + λ)⁻¹ y.
    """
    examples, size = z.shape[1:]
    woodbury = examples <= size
    gram = z @ z.mT if woodbury else z.mT @ z
    system = gram + regularisation * torch.eye(gram.shape[-1], dtype=z.dtype, device=z.device)
    factor = torch.linalg.cholesky(system)
    if woodbury:
        return z.mT @ torch.cholesky_solve(y, factor)
    return torch.cholesky_solve(z.mT @ y, factor)


def with_ones(features: Tensor) -> Tensor:
    """Append a one to each embedding, [T, n, features + 1]."""
    return torch.cat([features, torch.ones_like(features[..., :1])], -1)
