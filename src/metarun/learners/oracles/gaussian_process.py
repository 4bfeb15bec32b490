"""The exact posterior of a Gaussian process whose covariance is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.distributions import Normal

from metarun.learners.oracles.oracle import Oracle
from metarun.tasks import Scores, Targets, Tasks
from metarun.tasks.gaussian_process import HYPERPARAMETERS
from metarun.tasks.kernels import KERNELS, covariance
from metarun.tasks.regression import negative_log_likelihood


@dataclass(frozen=True)
class Posterior:
    """Posteriors of T processes, in float64.

    Attributes:
        x: inputs of the support sets, [T, n, d].
        factor: Cholesky factor of the covariance of y, with noise, [T, n, n].
        weights: covariance⁻¹ y, [T, n, 1].
        kernel: index in KERNELS.
        noise: variance of the noise on y, [T].
        hyperparameters: hyper-parameters of the covariance, [T] by name.
        mask: [T, n], False at padding; None: no padding.
    """

    x: Tensor
    factor: Tensor
    weights: Tensor
    kernel: int
    noise: Tensor
    hyperparameters: dict[str, Tensor]
    mask: Tensor | None


class GaussianProcessOracle(Oracle[Posterior]):
    """Predicts N(k' K⁻¹ y, s² − k' K⁻¹ k + σ²), with the task's own kernel and noise, in float64.

    Rasmussen & Williams 2006, "Gaussian Processes for Machine Learning", equations 2.23 to 2.25, for targets
    with noise. No learner can have a higher expected likelihood.
    """

    targets: ClassVar[Targets | None] = "values"
    knows = (*HYPERPARAMETERS, "noise", "kernel")
    data: ClassVar[str] = "@source=gp"

    def adapt(self, tasks: Tasks) -> Posterior:
        """Return the posteriors of T processes."""
        info, support = self.known(tasks), tasks.support.padded()
        kernel = int(info["kernel"][0])
        hyperparameters = {name: info[name].double() for name in HYPERPARAMETERS}
        x, noise = support.x.double(), info["noise"].double().square()
        k = covariance(KERNELS[kernel], x, x, **hyperparameters)
        if support.mask is not None:  # make padding independent of all other points
            k = k * (support.mask[:, :, None] & support.mask[:, None])
        extra = noise + 1e-10 * hyperparameters["scale"].square()
        diagonal = extra[:, None].expand(x.shape[:2])
        if support.mask is not None:
            diagonal = torch.where(support.mask, diagonal, 1.0)
        factor = torch.linalg.cholesky(k + torch.diag_embed(diagonal))
        weights = torch.cholesky_solve(support.y.double(), factor)
        return Posterior(x, factor, weights, kernel, noise, hyperparameters, support.mask)

    def scores(self, adapted: Posterior, tasks: Tasks) -> Scores:
        """Return the negative log-likelihood, as the loss, and the metrics of each task, [T]."""
        return super().scores(adapted, tasks.minimising(negative_log_likelihood))

    def predict(self, adapted: Posterior, x: Tensor) -> Normal:
        """Map x [T, m, d] to normal distributions over noisy targets, [T, m, 1]."""
        queries, known = x.double(), adapted.hyperparameters
        k = covariance(KERNELS[adapted.kernel], queries, adapted.x, **known)
        if adapted.mask is not None:
            k = k * adapted.mask[:, None]
        explained = (k * torch.cholesky_solve(k.mT, adapted.factor).mT).sum(2)
        variance = known["scale"].square()[:, None] + adapted.noise[:, None] - explained
        tiny = torch.finfo(variance.dtype).eps
        scale = variance.clamp_min(tiny).sqrt()[..., None]
        return Normal((k @ adapted.weights).to(x.dtype), scale.to(x.dtype), validate_args=False)
