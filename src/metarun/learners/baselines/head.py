"""Baseline and Baseline++: a new head for each task, on fixed embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.errors import ConfigError
from metarun.learners.baselines.pretrained import Pretrained
from metarun.learners.embedding_learner import class_means
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.rules import Parameters, UpdateRule
from metarun.tasks import Examples


class NewHead(Pretrained):
    """Trains a new head on a task's support set: steps of an update rule minimise the cross-entropy.

    Chen, Liu, Kira, Wang & Huang 2019, "A Closer Look at Few-shot Classification", arXiv:1904.04232, section
    3.2. A linear head (Baseline) starts from zero, and a cosine head (Baseline++) from the class means, so
    the result does not depend on random numbers; in the authors' code both heads start at random.

    Args:
        rule: the update rule; it must have no weights of its own, because training does not use it.
        loop: the number of steps.
        **shared: model, training_output_size, head, scale, transductive, seed and seeding (Pretrained).

    Raises:
        ConfigError: the rule has weights.
    """

    needs = frozenset({"model", "training_output_size", "rule", "loop", "seed", "seeding"})

    def __init__(self, *, rule: UpdateRule, loop: InnerLoop, **shared: Any) -> None:
        super().__init__(**shared)
        check_learns_nothing(rule, self.training_head)
        self.rule: UpdateRule = rule
        self.loop = loop

    def fit(self, features: Tensor, labels: Tensor) -> Parameters:
        """Return the weights [T, classes, features] and, for a linear head, the biases [T, classes]."""
        params = {"weight": class_means(features, labels)}
        if self.kind == "linear":
            params = {"weight": torch.zeros_like(params["weight"]), "bias": torch.zeros_like(labels[:, 0])}
        support, state = Examples(features, labels), self.rule.init(params)
        for step in range(self.loop.count(training=False)):
            examples = self.loop.minibatch(support, step, training=False)
            with torch.enable_grad():
                params = {name: p.detach().requires_grad_() for name, p in params.items()}
                losses = soft_cross_entropy(self.classify(params, examples.x.detach()), examples.y)
                grads = torch.autograd.grad(losses.sum(), list(params.values()))
            state = self.rule.observe(state, examples, losses.detach())
            params, state = self.rule.update(params, dict(zip(params, grads, strict=True)), state, step)
        return params

    def classify(self, classifier: Parameters, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        if self.training_head.scale is None:
            return torch.baddbmm(classifier["bias"][:, None], features, classifier["weight"].mT)
        similarity = F.normalize(features, dim=2) @ F.normalize(classifier["weight"], dim=2).mT
        return self.training_head.scale.detach() * similarity


def soft_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each task's mean cross-entropy, [T]; labels [T, n, classes] are zero for padding."""
    losses = -(labels * logits.log_softmax(2)).sum((1, 2))
    return losses / labels.sum((1, 2)).clamp_min(1)


def check_learns_nothing(rule: UpdateRule, like: nn.Module) -> None:
    """Raise ConfigError if a rule has weights of its own for the parameters of `like`."""
    rule.prepare({name: p.detach() for name, p in like.named_parameters()}, torch.Generator())
    if any(True for _ in rule.parameters()):
        raise ConfigError(
            f"the update rule {type(rule).__name__} has weights of its own, which supervised training never "
            f"learns",
            "@rule=momentum, or another without weights",
        )
