"""Least squares and ridge regression on the inputs themselves."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners.learner import Learner
from metarun.tasks import Targets, Tasks

# Singular values below this share of the largest are zero.
_SINGULAR = 1e-10


class LinearOracle(Learner[Tensor]):
    """Predicts w·x, with w from least squares of minimum norm, or from ridge regression.

    Least squares is the baseline of Garg et al. 2022, arXiv:2208.01066, section 3. Ridge regression with
    λ = σ²/τ² is the best predictor for w ~ N(0, τ² I) and normal noise of variance σ².

    Args:
        regularisation: λ of ‖Xw − y‖² + λ‖w‖²; 0: least squares; null: the noise variance σ² from
            `Tasks.info`, which is the best λ for τ = 1.
    """

    targets: ClassVar[Targets | None] = "values"
    learns: ClassVar[bool] = False
    thread_safe: ClassVar[bool] = True

    def __init__(self, *, regularisation: Annotated[float, Field(ge=0, lt=1e9)] | None = 0.0) -> None:
        super().__init__()
        self.regularisation = regularisation

    def adapt(self, tasks: Tasks) -> Tensor:
        """Return w, float64 [T, d, out]."""
        support = tasks.support.padded()
        x, y = support.x.flatten(2).double(), support.y.flatten(2).double()
        if self.regularisation == 0:
            inverse: Tensor = torch.linalg.pinv(x, rtol=_SINGULAR)
            return inverse @ y
        if self.regularisation is None:
            penalty = tasks.info["noise"].double().square()[:, None, None]
        else:
            penalty = torch.full_like(x[:, :1, :1], self.regularisation)
        gram = x.mT @ x + penalty * torch.eye(x.shape[2], dtype=x.dtype, device=x.device)
        # Without noise the penalty is 0, and there may be fewer examples than entries.
        inverse = torch.linalg.pinv(gram, rtol=_SINGULAR, hermitian=True)
        return inverse @ x.mT @ y

    def predict(self, adapted: Tensor, x: Tensor) -> Tensor:
        """Map x [T, m, d] to [T, m, out]."""
        return (x.flatten(2).double() @ adapted).to(x.dtype)

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if λ is to be the noise variance, but `Tasks.info` has no noise."""
        if self.regularisation is None and "noise" not in tasks.info:
            raise ConfigError(
                "@learner.regularisation=null takes the noise of each task, which this data does not tell",
                "@learner.regularisation=1, or @source=linear_icl",
            )
