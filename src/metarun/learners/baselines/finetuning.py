"""Fine-tuning: a pretrained network and a new head are trained on each task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.learners.baselines.head import check_learns_nothing, soft_cross_entropy
from metarun.learners.baselines.pretrained import Pretrained
from metarun.learners.embedding import Pass, TaskNorm, passing
from metarun.learners.embedding_learner import class_means, one_hot
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.task_forward import TaskForward
from metarun.learners.one_pass import Embedded
from metarun.learners.soundness import PADDED_QUERIES
from metarun.rules import Parameters, UpdateRule
from metarun.system.randomness import Seeding
from metarun.tasks import Examples, Tasks

# Names that no parameter of a model has.
_WEIGHT, _BIAS = "new head.weight", "new head.bias"


@dataclass(frozen=True)
class Tuned:
    """The parameters of T tasks, [T, …] by name: those of the model, and those of a new head."""

    params: Parameters

    @property
    def of_model(self) -> Parameters:
        """The parameters of the model, without the head."""
        return {name: p for name, p in self.params.items() if name not in (_WEIGHT, _BIAS)}


class Finetuning(Pretrained):
    """A pretrained network and a new linear head, trained together on a task's support set.

    Dhillon, Chaudhari, Ravichandran & Soatto 2020, "A Baseline for Few-Shot Image Classification",
    arXiv:1909.02729, sections 3.1 and 3.2: the head starts from the normalised class means, and all weights
    minimise the cross-entropy. Batch norms use the running statistics of the training.

    Args:
        model: the network, without a head.
        training_output_size: number of training classes.
        rule: the update rule; it must have no weights of its own, because training does not use it.
        loop: the number of steps.
        transductive: whether every step also minimises the mean entropy of the query set's predictions
            (equation 8; the authors alternate between the two losses).
        seed: seeds the training head's initial weights.
        seeding: how their seed is derived; see `Streams`.

    Raises:
        ConfigError: the rule has weights, or the model has no attribute `features`.
    """

    needs = frozenset({"model", "training_output_size", "rule", "loop", "seed", "seeding"})

    def __init__(
        self,
        *,
        model: nn.Module,
        training_output_size: int,
        rule: UpdateRule,
        loop: InnerLoop,
        transductive: bool = False,
        seed: int = 0,
        seeding: Seeding = "streams",
    ) -> None:
        super().__init__(
            model=model,
            training_output_size=training_output_size,
            transductive=transductive,
            seed=seed,
            seeding=seeding,
        )
        check_learns_nothing(rule, model)
        self.rule: UpdateRule = rule
        self.loop = loop
        self._forward = TaskForward(self.model)

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the parameters of T networks with their heads; in training, see Pretrained."""
        if self.training:
            return super().adapt(tasks)
        support = tasks.support
        labels = one_hot(support, support.x.dtype)
        query_x = tasks.query.x if self.transductive else None
        return Embedded(support.x, self._tune(self._start(support, labels), support, labels, query_x))

    def predict(self, adapted: Embedded, x: Tensor) -> Tensor:
        """Map x [T, n, …] to logits [T, n, classes]."""
        return super().predict(adapted, x) if self.training else self._logits(adapted.predictor.params, x)

    def fit(self, features: Tensor, labels: Tensor) -> Parameters:
        """Return the initial weights of a head: the normalised class means, and biases of zero."""
        means = F.normalize(class_means(features, labels), dim=2)
        return {_WEIGHT: means, _BIAS: torch.zeros_like(means[:, :, 0])}

    def classify(self, classifier: Parameters, features: Tensor) -> Tensor:
        """Return the logits of embeddings, [T, n, classes]."""
        return torch.baddbmm(classifier[_BIAS][:, None], features, classifier[_WEIGHT].mT)

    def _start(self, support: Examples, labels: Tensor) -> Parameters:
        tasks = len(support.x)
        shared = {name: p.detach().expand(tasks, *p.shape) for name, p in self.model.named_parameters()}
        with torch.no_grad(), passing(Pass(tasks, batch_statistics=False)):
            return {**shared, **self.fit(self.embed(support.x), labels)}

    def _tune(self, params: Parameters, support: Examples, labels: Tensor, query_x: Tensor | None) -> Tuned:
        learned = {name for name, p in self.model.named_parameters() if p.requires_grad} | {_WEIGHT, _BIAS}
        fixed = {name: p for name, p in params.items() if name not in learned}
        params = {name: p for name, p in params.items() if name in learned}
        hot, state = Examples(support.x, labels), self.rule.init(params)
        for step in range(self.loop.count(training=False)):
            examples = self.loop.minibatch(hot, step, training=False)
            with torch.enable_grad():
                params = {name: p.detach().requires_grad_() for name, p in params.items()}
                losses = soft_cross_entropy(self._logits({**fixed, **params}, examples.x), examples.y)
                if query_x is not None:
                    losses = losses + mean_entropy(self._logits({**fixed, **params}, query_x))
                grads = torch.autograd.grad(losses.sum(), list(params.values()), materialize_grads=True)
            with torch.no_grad():
                state = self.rule.observe(state, examples, losses)
                params, state = self.rule.update(params, dict(zip(params, grads, strict=True)), state, step)
        return Tuned({**fixed, **params})

    def _logits(self, params: Parameters, x: Tensor) -> Tensor:
        buffers = dict(self.model.named_buffers())
        with passing(Pass(tasks=1, batch_statistics=False)):
            features = self._forward(Tuned(params).of_model, buffers, x)
        return self.classify(params, features)

    @property
    def is_transductive(self) -> bool | None:
        """Whether predictions depend on other query examples; batch norms always use running statistics."""
        has_norms = any(isinstance(module, TaskNorm) for module in self.modules())
        return self.transductive or (False if has_norms else None)

    def apart(self, tasks: Tasks) -> str:
        """Return why tasks of different sizes must be computed one by one: also padding of query sets."""
        if self.transductive and tasks.query.mask is not None:
            return PADDED_QUERIES
        return super().apart(tasks)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._forward.forget_copies()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def mean_entropy(logits: Tensor) -> Tensor:
    """Return the mean entropy of each task's predictions, in nats, [T], from logits [T, n, classes]."""
    logs = logits.log_softmax(2)
    return -(logs.exp() * logs).sum(2).mean(1)
