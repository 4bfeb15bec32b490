"""Neural processes: CNP, NP and their attentive forms are one learner with two paths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.fields import Count, Depth, Size, SizeOrNone
from metarun.learners.in_context.latent import bound, counts, sampled
from metarun.learners.in_context.layers import Attention, masked_mean
from metarun.learners.in_context.reading import ReadingLearner, full_precision
from metarun.learners.one_pass import Embedded
from metarun.rules.perceptron import perceptron
from metarun.system.randomness import Streams
from metarun.tasks import Examples, Scores, Tasks

# Streams of a task's key, so that samples in training and at test are different.
_IN_TRAINING, _AT_TEST = 101, 102


@dataclass(frozen=True)
class Read:
    """The representations of T support sets.

    Attributes:
        mean: the representation of the mean path, [T, width].
        keys: keys of the attention, [T, n, width].
        values: values of the attention, [T, n, width].
        mask: [T, n], False at padding.
        latent: distribution of the latent variable, [T, latent].
        samples: samples of the latent variable, [T, samples, latent].
    """

    mean: Tensor | None = None
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None
    latent: Normal | None = None
    samples: Tensor | None = None


class PointsEncoder(nn.Module):
    """A perceptron on each pair (x, y), their mean, and a second perceptron.

    Args:
        inputs: entries of x and y together.
        width: units of hidden layers.
        outputs: entries of the result.
        attention: number of heads of self-attention between the pairs, before the mean; 0: no attention.
    """

    def __init__(self, inputs: int, width: int, outputs: int, attention: int = 0) -> None:
        super().__init__()
        self.points = perceptron(inputs, width, width, 2 if attention else 4)
        self.attention = Attention(width, attention) if attention else None
        self.out = perceptron(width, width, outputs, 2)

    def forward(self, pairs: Tensor, mask: Tensor | None) -> Tensor:
        """Map pairs [T, n, inputs] to [T, outputs]."""
        points = self.points(pairs)
        if self.attention is not None:
            points = self.attention(F.relu(points), F.relu(points), F.relu(points), mask)
        result: Tensor = self.out(masked_mean(points, mask))
        return result


class NeuralProcess(ReadingLearner):
    """Predicts by a decoder of a query's input and a representation of the support set.

    Garnelo et al. 2018, "Conditional Neural Processes", arXiv:1807.01613 (CNP), and "Neural Processes",
    arXiv:1807.01622 (NP, with a latent variable z); Kim et al. 2019, "Attentive Neural Processes",
    arXiv:1901.05761. Sizes and activations are those of the code of arXiv:2207.04179. With a latent variable
    and one sample, training maximises log p(y | z) − KL(q(z | support and query) ‖ q(z | support)) per
    target; with several samples, it maximises the importance-weighted bound (Burda et al. 2016,
    arXiv:1509.00519). At test, predictions are averaged over samples of q(z | support).

    Args:
        path: the deterministic representation: `mean` over the support set, `attention` of the query to the
            support set, or `none`.
        latent: entries of z; 0: no latent variable.
        samples: samples of z in training.
        test_samples: samples of z at test.
        width: units of all hidden layers.
        heads: heads of the attention.
        decoder_depth: layers of the decoder.
        **shared: see ReadingLearner.

    Raises:
        ConfigError: there is neither a path nor a latent variable, the heads do not divide the width, or
            a latent variable is used with predictions that are not distributions.
    """

    for_tests: ClassVar[frozenset[str]] = frozenset({"test_samples"})

    def __init__(
        self,
        *,
        path: Literal["mean", "attention", "none"] = "mean",
        latent: SizeOrNone = 0,
        samples: Count = 1,
        test_samples: Count = 32,
        width: Size = 128,
        heads: Count = 8,
        decoder_depth: Depth = 3,
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        if path == "none" and not latent:
            raise ConfigError(
                "@learner.path=none and @learner.latent=0 leave nothing of the support set",
                "@learner.latent=128, or @learner.path=mean",
            )
        if path == "attention" and width % heads:
            raise ConfigError(
                f"@learner.heads={heads} does not divide @learner.width={width}", "@learner.heads=1"
            )
        if latent and self.kind == "values" and not self.has_scale:
            raise ConfigError(
                "@learner.predicts=mean: a latent variable is learned by likelihoods",
                "@learner.predicts=distribution, or @learner.latent=0",
            )
        self.path, self.latent, self.samples, self.test_samples = path, latent, samples, test_samples
        with Streams(self.seed, self.seeding).drawing("learner"):
            self._make_networks(width, heads, decoder_depth)

    def _make_networks(self, width: int, heads: int, decoder_depth: int) -> None:
        pair, path, latent = self.features + self.output_size, self.path, self.latent
        if path == "mean":
            self.mean_encoder = PointsEncoder(pair, width, width)
        if path == "attention":
            self.values = perceptron(pair, width, width, 2)
            self.self_attention = Attention(width, heads)
            self.positions = perceptron(self.features, width, width, 2)
            self.cross_attention = Attention(width, heads)
        if latent:
            attention = heads if path == "attention" else 0
            self.latent_encoder = PointsEncoder(pair, width, 2 * latent, attention)
        inputs = self.features + (width if path != "none" else 0) + latent
        self.decoder = perceptron(inputs, width, self.outputs_size, decoder_depth)

    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> Read:
        """Return the representations of the support sets, and samples of z at test."""
        pairs = torch.cat([features, targets], 2)
        read = Read(mask=mask)
        if self.path == "mean":
            read = replace(read, mean=self.mean_encoder(pairs, mask))
        if self.path == "attention":
            values = self.values(pairs)
            values = self.self_attention(values, values, values, mask)
            read = replace(read, keys=self.positions(features), values=values)
        if self.latent:
            latent = self._latent(pairs, mask)
            read = replace(read, latent=latent)
            if not self.training:
                read = replace(read, samples=sampled(latent, keys, _AT_TEST, self.test_samples))
        return read

    def _latent(self, pairs: Tensor, mask: Tensor | None) -> Normal:
        """Return q(z | pairs), [T, latent]."""
        mean, scale = self.latent_encoder(pairs, mask).chunk(2, 1)
        return Normal(mean, 0.1 + 0.9 * scale.sigmoid(), validate_args=False)

    def outputs(self, read: Read, features: Tensor) -> Tensor:
        """Map embedded queries [T, m, features] to outputs [T, m, …]; with z to [T, m, samples, …]."""
        inputs = [features]
        if read.mean is not None:
            inputs.append(read.mean[:, None].expand(-1, features.shape[1], -1))
        if read.keys is not None and read.values is not None:
            inputs.append(self.cross_attention(self.positions(features), read.keys, read.values, read.mask))
        known = torch.cat(inputs, 2)
        if read.samples is not None:
            shape = (-1, features.shape[1], read.samples.shape[1], -1)
            known = torch.cat([known[:, :, None].expand(shape), read.samples[:, None].expand(shape)], 3)
        result: Tensor = self.decoder(known)
        return result

    def scores(self, adapted: Embedded, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of each task, [T]; in training with z, the loss is −bound."""
        if not (self.training and self.latent):
            return super().scores(adapted, tasks)
        assert adapted.features is not None
        support, features = tasks.support.packed(), adapted.features
        scored = everything = support.followed_by(tasks.query)
        pairs = torch.cat([features, self.encoded(everything, features.dtype)], 2)
        posterior = self._latent(pairs, everything.mask)
        z = sampled(posterior, tasks.key, _IN_TRAINING, self.samples)
        if self.loss_on == "query":
            features, scored = features[:, len(support) :], tasks.query
        outputs = self.outputs(replace(adapted.predictor, samples=z), features)
        scores = self.score_of(tasks, scored, self.predictions(outputs))
        likelihoods = self._log_likelihoods(outputs, scored)
        prior = adapted.predictor.latent
        return {**scores, "loss": -bound(likelihoods, prior, posterior, z) / counts(scored)}

    def _log_likelihoods(self, outputs: Tensor, scored: Examples) -> Tensor:
        """Return Σ log p(y | z) over the scored examples of each task, for each sample, [T, samples]."""
        outputs = full_precision(outputs)
        if self.kind == "values":
            mean, scale = outputs.chunk(2, 3)
            values = Normal(mean, self.positive(scale), validate_args=False)
            logs: Tensor = values.log_prob(scored.y.flatten(2)[:, :, None]).sum(3)  # type: ignore[no-untyped-call]
        elif self.kind == "binary":
            signs = 2 * scored.y.to(outputs.dtype) - 1
            logs = F.logsigmoid(signs[:, :, None] * outputs.squeeze(3))
        else:
            labels = scored.y[:, :, None, None].expand(-1, -1, self.samples, 1)
            logs = outputs.log_softmax(3).gather(3, labels).squeeze(3)
        return (logs if scored.mask is None else logs * scored.mask[..., None]).sum(1)
