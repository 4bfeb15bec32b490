"""A latent variable of each task: samples, the bound to maximise, and averages of predictions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.system import hashing
from metarun.tasks import Examples, Targets


def sampled(latent: Normal, keys: Tensor | None, stream: int, count: int) -> Tensor:
    """Return samples [T, count, size] of T distributions [T, size], drawn with the tasks' keys.

    Raises:
        ConfigError: the tasks have no keys.
    """
    if keys is None:
        raise ConfigError("a latent variable is drawn with the keys of tasks, and these have none")
    tasks, size = latent.loc.shape
    noise = hashing.normal(keys, stream, count * size).view(tasks, count, size).to(latent.loc.dtype)
    return latent.loc[:, None] + latent.scale[:, None] * noise


def bound(likelihoods: Tensor, prior: Normal, posterior: Normal, z: Tensor) -> Tensor:
    """Return a lower bound of log p(targets | support set) for each task, [T].

    With one sample the bound is log p(y | z) − KL(posterior ‖ prior). With S samples it is the
    importance-weighted log (1/S) Σ p(y | z) p(z) / q(z) (Burda et al. 2016, arXiv:1509.00519, equation 8).

    Args:
        likelihoods: log p(y | z) of all targets together, [T, samples].
        prior: q(z | support set), [T, size].
        posterior: q(z | support and query set), [T, size].
        z: samples of the posterior, [T, samples, size].
    """
    samples = z.shape[1]
    if samples == 1:
        divergence: Tensor = kl_divergence(posterior, prior).sum(1)
        return likelihoods.squeeze(1) - divergence
    p, q = (_log_density(distribution, z) for distribution in (prior, posterior))
    return (likelihoods + p - q).logsumexp(1) - math.log(samples)


def _log_density(distribution: Normal, z: Tensor) -> Tensor:
    """Return the log density of samples z [T, samples, size] under T distributions, [T, samples]."""
    mean, scale = distribution.loc[:, None], distribution.scale[:, None]
    return Normal(mean, scale, validate_args=False).log_prob(z).sum(2)  # type: ignore[no-untyped-call, no-any-return]


def counts(examples: Examples) -> Tensor | int:
    """Return the number of examples of each task, without padding: [T], or an int for all tasks."""
    return len(examples) if examples.mask is None else examples.mask.sum(1).clamp_min(1)


def logits_of_mean(logits: Tensor, kind: Targets) -> Tensor:
    """Return the logits of probabilities averaged over samples: [T, m, samples, out] to [T, m, out]."""
    if kind == "classes":
        return logits.log_softmax(3).logsumexp(2)
    yes, no = (F.logsigmoid(sign * logits).logsumexp(2) for sign in (1, -1))
    return torch.as_tensor(yes - no)
