"""LEO: inner steps on a latent code of each class, which a decoder maps to the head's weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from metarun.errors import ConfigError
from metarun.fields import Size, Steps
from metarun.learners.embedding import passing, running_changes
from metarun.learners.embedding_learner import (
    check_classes,
    class_means,
    one_hot,
)
from metarun.learners.gradient.graph import graph_for
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.parameters import leaves
from metarun.learners.in_context.latent import sampled
from metarun.learners.learner import IterativeLearner
from metarun.learners.one_pass import Embedded, OnePassLearner, size_of
from metarun.models.dropblock import dropping
from metarun.rules import Parameters, UpdateRule
from metarun.rules.perceptron import perceptron
from metarun.system.randomness import Seeding, Streams
from metarun.tasks import Scores, Targets, Tasks

CODE = "code"
_OF_CODE, _OF_WEIGHT = 201, 202  # streams of a task's key


@dataclass(frozen=True)
class Coded:
    """T heads and the codes that they come from.

    Attributes:
        weight: weights of the heads, [T, classes, features].
        code: z, [T, classes, latent].
        start: z before the first step.
        latent: the distribution that `start` was drawn from.
    """

    weight: Tensor
    code: Tensor
    start: Tensor
    latent: Normal


class LEO(OnePassLearner, IterativeLearner[Embedded]):
    """Takes inner steps on z_k, the code of class k, then on the head that is decoded from z.

    Rusu, Rao, Sygnowski, Vinyals, Pascanu, Osindero & Hadsell 2019, "Meta-Learning with Latent Embedding
    Optimization", arXiv:1807.05960, algorithm 1: z_k ~ N(μ_k, σ_k²), made by a relation network of all pairs
    of encoded support examples (equations 2 and 3); w_k ~ N(μ, σ²) decoded from z_k (equations 4 and 5). The
    logits are w_k·f(x). The update rule adapts z (`inner`; published: a learned rate from 1.0, 5 steps), then
    plain gradient descent with a learned rate adapts w. At test, means are used instead of samples, as in the
    authors' code. Published numbers are on a pretrained, frozen embedding.

    Args:
        rule: update rule of the codes.
        loop: number of steps on the codes, and their support examples.
        latent: size of a code.
        finetuning_steps: steps on the head, after the steps on the codes.
        finetuning_lr: initial rate of the steps on the head, which is learned.
        kl_weight: β of Σ_k KL(N(μ_k, σ_k²) ‖ N(0, I)) in the outer loss.
        encoder_penalty: γ of ‖stopgrad(z') − z‖², z' the code after its steps.
        orthogonality: λ₂ of ‖C − I‖², C the correlations of the decoder's rows.
        seed: seeds the initial weights.
        seeding: how their seed is derived; see `Streams`.
        training_output_size: number of classes of a training task, for rules with weights for each entry.
        **shared: model and transductive (OnePassLearner).
    """

    needs = frozenset({"model", "rule", "loop", "training_output_size", "seed", "seeding"})
    targets: ClassVar[Targets | None] = "classes"
    answers_in_pass: ClassVar[bool] = False
    ignores_absent_classes: ClassVar[bool] = False

    def __init__(
        self,
        *,
        rule: UpdateRule,
        loop: InnerLoop,
        training_output_size: int,
        latent: Size = 64,
        finetuning_steps: Steps = 5,
        finetuning_lr: NonNegativeFloat = 0.001,
        kl_weight: NonNegativeFloat = 0.001,
        encoder_penalty: NonNegativeFloat = 1e-9,
        orthogonality: NonNegativeFloat = 0.1,
        seed: int = 0,
        seeding: Seeding = "streams",
        **shared: Any,
    ) -> None:
        super().__init__(**shared)
        self.rule, self.loop, self.finetuning_steps = rule, loop, finetuning_steps
        self.kl_weight, self.encoder_penalty, self.orthogonality = kl_weight, encoder_penalty, orthogonality
        size, self.latent = size_of(self.model), latent
        self._least = math.sqrt(2 / (size + latent))
        streams = Streams(seed, seeding)
        with streams.drawing("learner"):
            self.encoder = nn.Linear(size, latent, bias=False)
            self.relation = perceptron(2 * latent, 2 * latent, 2 * latent, 3)
            self.decoder = nn.Linear(latent, 2 * size, bias=False)
        self._classes = training_output_size
        self.finetuning_rate = nn.Parameter(torch.tensor(float(finetuning_lr)))
        rule.prepare({CODE: torch.zeros(training_output_size, latent)}, streams.generator("rule"))

    @property
    def steps(self) -> int:
        """The number of steps of the code and of the head, in the current mode (training or test)."""
        return self.loop.count(self.training) + self.finetuning_steps

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be compiled to one graph."""
        return "the number of classes follows from the labels of a task"

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the heads after the last step."""
        return IterativeLearner.adapt(self, tasks)

    def trajectory(self, tasks: Tasks) -> Iterator[Embedded]:
        """Yield the heads before the first step, after each step on codes, and after each step on heads."""
        support, query = tasks.support, tasks.query
        with passing(now := self._pass(len(tasks))), dropping(tasks.key):
            x = torch.cat([support.x, query.x], 1) if self._together else support.x
            features = self.embed(x)
        changes = running_changes(self, now)
        for coded in self._paths(features[:, : len(support)], tasks):
            if self._together:
                yield Embedded(support.x, coded, query.x, features, changes=changes)
            else:
                yield Embedded(support.x, coded)

    def learn(self, features: Tensor, tasks: Tasks) -> Coded:
        """Return the heads after the last step, from embedded support sets [T, n, features]."""
        return list(self._paths(features, tasks))[-1]

    def _paths(self, features: Tensor, tasks: Tasks) -> Iterator[Coded]:
        graph = graph_for("exact")
        support = replace(tasks.support, x=features)
        latent = self._encode(features, one_hot(tasks.support, features.dtype))
        start = self._drawn(latent, tasks.key, _OF_CODE)
        params: Parameters = {CODE: start}
        state = self.rule.init(params)

        def decoded(params: Parameters, step: int) -> tuple[Parameters, Tensor]:
            params = leaves(params) if graph == "none" else params
            with torch.enable_grad():
                return params, self._decode(params[CODE], tasks.key, step)

        def coded(weight: Tensor) -> Coded:
            kept = (weight.detach(), params[CODE].detach()) if graph == "none" else (weight, params[CODE])
            return Coded(*kept, start, latent)

        params, weight = decoded(params, 0)
        yield coded(weight)
        for step in range(self.loop.count(self.training)):
            examples = self.loop.minibatch(support, step, self.training)
            with torch.enable_grad():
                losses = tasks.losses(examples.x @ weight.mT, examples)
                (g,) = torch.autograd.grad(losses.sum(), params[CODE], create_graph=graph == "exact")
            with torch.set_grad_enabled(graph != "none"):
                state = self.rule.observe(state, examples, losses)
                params, state = self.rule.update(params, {CODE: g}, state, step)
            params, weight = decoded(params, step + 1)
            yield coded(weight)
        for _ in range(self.finetuning_steps):
            if graph == "none":
                weight = weight.detach().requires_grad_()
            with torch.enable_grad():
                losses = tasks.losses(features @ weight.mT, support)
                (g,) = torch.autograd.grad(losses.sum(), weight, create_graph=graph == "exact")
            with torch.set_grad_enabled(graph != "none"):
                weight = weight - self.finetuning_rate * g
            yield coded(weight)

    def _encode(self, features: Tensor, labels: Tensor) -> Normal:
        """Return the distribution of each class's code, [T, classes, latent]."""
        encoded = self.encoder(features)
        n = encoded.shape[1]
        pairs = torch.cat(
            [encoded[:, :, None].expand(-1, -1, n, -1), encoded[:, None].expand(-1, n, -1, -1)], 3
        )
        counts = labels.sum(2)  # 0 at padding
        related = (self.relation(pairs) * counts[:, None, :, None]).sum(2) / counts.sum(1)[:, None, None]
        mean, scale = class_means(related, labels).chunk(2, 2)
        return Normal(mean, scale.exp(), validate_args=False)

    def _decode(self, code: Tensor, keys: Tensor | None, step: int) -> Tensor:
        """Return the heads of codes, [T, classes, features]."""
        mean, scale = self.decoder(code).chunk(2, 2)
        scale = (scale.exp() - (1 - self._least)).clamp_min(1e-10)
        return self._drawn(Normal(mean, scale, validate_args=False), keys, _OF_WEIGHT + step)

    def _drawn(self, distribution: Normal, keys: Tensor | None, stream: int) -> Tensor:
        """Return a sample of each task in training, the means at test."""
        if not self.training:
            return distribution.loc
        if keys is None:
            raise ConfigError("codes are drawn with the keys of tasks, and these have none")
        flat = Normal(distribution.loc.flatten(1), distribution.scale.flatten(1), validate_args=False)
        return sampled(flat, keys, stream, 1).view_as(distribution.loc)

    def answer(self, predictor: Coded, features: Tensor) -> Tensor:
        """Map embeddings [T, n, features] to logits [T, n, classes]."""
        return features @ predictor.weight.mT

    def scores(self, adapted: Embedded, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of each task, [T]; in training the loss has three penalties."""
        scores = super().scores(adapted, tasks)
        if not self.training:
            return scores
        coded: Coded = adapted.predictor
        standard = Normal(torch.zeros_like(coded.start), torch.ones_like(coded.start), validate_args=False)
        divergence = kl_divergence(coded.latent, standard).sum(2).mean(1)
        distance = (coded.code.detach() - coded.start).square().mean((1, 2))
        penalty = self.kl_weight * divergence + self.encoder_penalty * distance
        loss = scores["loss"] + penalty + self.orthogonality * correlation(self.decoder.weight.T)
        return {**scores, "loss": loss}

    def check(self, tasks: Tasks) -> None:
        """Raise ConfigError if targets are not classes, or for batch norms with padding, or for state."""
        check_classes(type(self).__name__, tasks)
        per_entry = [p for p in self.rule.parameters() if p.shape == (self._classes, self.latent)]
        if tasks.ways is not None and per_entry:
            raise ConfigError(
                "this rule has weights for each entry of a code, and tasks have different numbers of classes",
                "inner=learned_rate",
            )
        super().check(tasks)

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: also absent classes."""
        if tasks.ways is not None:
            return "its heads would count the classes that smaller tasks do not have"
        return super().apart(tasks)


def correlation(rows: Tensor) -> Tensor:
    """Return the mean of (C − I)², C the cosines between rows [n, d]."""
    unit = nn.functional.normalize(rows, dim=1)
    return (unit @ unit.T - torch.eye(len(rows), dtype=rows.dtype, device=rows.device)).square().mean()
