"""The base of learners that read a support set as pairs of an embedded input and a target."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torch.nn import functional as F

from metarun.learners.embedding_learner import one_hot
from metarun.learners.in_context.latent import logits_of_mean
from metarun.learners.one_pass import Embedded, OnePassLearner, size_of
from metarun.system.randomness import Seeding
from metarun.tasks import Examples, Predictions, Scores, Targets, Tasks
from metarun.tasks.regression import negative_log_likelihood

Predicts = Literal["distribution", "mean"]
ScaleFloor = Annotated[float, Field(ge=0, lt=1)]


class ReadingLearner(OnePassLearner):
    """Reads the support set with a network of its own, and predicts any query in one pass.

    Classes are read one-hot and predicted as logits. Values are predicted as a normal distribution, with its
    negative log-likelihood as the loss, or as a mean, with the loss of the tasks. Padding is removed before
    any computation, so it does not change a bit of the results.

    Args:
        model: embeds an input; `Linear` without a head is the identity on vectors.
        output_size: number of classes, or entries of a target.
        targets: the kind of targets.
        predicts: prediction of values: `distribution` or `mean`.
        min_scale: m of the standard deviation m + (1 − m) softplus(s); 0: exp(s).
        loss_on: the examples of the outer loss: the `query` set; or `all`: support and query set.
        seed: seeds the initial weights.
        seeding: how their seed is derived; see `Streams`.
        transductive: see OnePassLearner.
    """

    needs = frozenset({"model", "output_size", "targets", "seed", "seeding"})
    answers_in_pass: ClassVar[bool] = False

    def __init__(
        self,
        *,
        model: nn.Module,
        output_size: int,
        targets: Targets,
        predicts: Predicts = "distribution",
        min_scale: ScaleFloor = 0.1,
        loss_on: Literal["query", "all"] = "query",
        seed: int = 0,
        seeding: Seeding = "streams",
        transductive: bool = False,
    ) -> None:
        super().__init__(model=model, transductive=transductive)
        self.kind, self.output_size, self.loss_on = targets, output_size, loss_on
        self.has_scale, self.min_scale = targets == "values" and predicts == "distribution", min_scale
        self.seed, self.seeding = seed, seeding
        self.features = size_of(self.model)
        self.outputs_size = output_size * (2 if self.has_scale else 1)

    @property
    def not_to_compile(self) -> str:
        """Why its meta-gradient cannot be compiled to one graph."""
        return "the number of support examples that count follows from the tasks"

    @abstractmethod
    def read(self, features: Tensor, targets: Tensor, mask: Tensor | None, keys: Tensor | None) -> Any:
        """Return representations of the support sets.

        Args:
            features: embedded inputs, [T, n, features].
            targets: [T, n, output_size]; one-hot classes, or values.
            mask: [T, n], False at padding, which is at the end; None: no padding.
            keys: random bits of each task, int64 [T].
        """

    @abstractmethod
    def outputs(self, read: Any, features: Tensor) -> Tensor:
        """Map embedded queries [T, m, features] to outputs [T, m, outputs_size]."""

    def adapt(self, tasks: Tasks) -> Embedded:
        """Return the representations of the support sets of T tasks."""
        return super().adapt(replace(tasks, support=tasks.support.packed()))

    def learn(self, features: Tensor, tasks: Tasks) -> Any:
        """Return the representations of embedded support sets [T, n, features]."""
        targets = self.encoded(tasks.support, features.dtype)
        return self.read(features, targets, tasks.support.mask, tasks.key)

    def answer(self, predictor: Any, features: Tensor) -> Predictions:
        """Map embeddings [T, m, features] to predictions."""
        return self.predictions(self.outputs(predictor, features))

    def encoded(self, examples: Examples, dtype: torch.dtype) -> Tensor:
        """Return the targets as inputs of the network, [T, n, output_size]."""
        if self.kind == "classes":
            return one_hot(examples, dtype, self.output_size)
        return examples.y[..., None].to(dtype) if self.kind == "binary" else examples.y.flatten(2)

    def predictions(self, outputs: Tensor) -> Predictions:
        """Return logits, means, or normal distributions from outputs [T, m, outputs_size].

        Outputs [T, m, samples, outputs_size] are averaged over the samples: probabilities, values, or
        distributions, which give a mixture.
        """
        outputs = full_precision(outputs)
        if outputs.dim() == 4 and not self.has_scale:
            return outputs.mean(2) if self.kind == "values" else logits_of_mean(outputs, self.kind)
        if not self.has_scale:
            return outputs
        mean, scale = outputs.chunk(2, -1)
        if outputs.dim() == 3:
            return Normal(mean, self.positive(scale), validate_args=False)
        mean, scale = mean.transpose(2, 3), scale.transpose(2, 3)  # [T, m, out, samples]
        components = Normal(mean, self.positive(scale), validate_args=False)
        equally = Categorical(logits=torch.zeros_like(mean), validate_args=False)
        return MixtureSameFamily(equally, components, validate_args=False)

    def positive(self, scale: Tensor) -> Tensor:
        """Return standard deviations from the network's unconstrained outputs."""
        if self.min_scale == 0:
            return scale.exp()
        return self.min_scale + (1 - self.min_scale) * F.softplus(scale)

    def support_outputs(self, read: Any, features: Tensor) -> Tensor:
        """Return the outputs for the support set, [T, n, outputs_size], from its features [T, n, features].

        Learners that read a sequence predict each example from the examples before it.
        """
        return self.outputs(read, features)

    def _outputs_of_all(self, adapted: Embedded) -> Tensor:
        """Return the outputs for support and query set, [T, n + m, outputs_size], in training."""
        assert adapted.features is not None
        n = adapted.support_x.shape[1]
        support, query = adapted.features[:, :n], adapted.features[:, n:]
        read = adapted.predictor
        return torch.cat([self.support_outputs(read, support), self.outputs(read, query)], 1)

    def scores(self, adapted: Embedded, tasks: Tasks) -> Scores:
        """Return the loss and the metrics of each task, [T]; in training, on the examples of `loss_on`."""
        if self.training and self.loss_on == "all":
            everything = tasks.support.packed().followed_by(tasks.query)
            return self.score_of(tasks, everything, self.predictions(self._outputs_of_all(adapted)))
        return super().scores(adapted, self._with_loss(tasks))

    def score_of(self, tasks: Tasks, scored: Examples, predictions: Predictions) -> Scores:
        """Return the training scores of these examples of the tasks, [T]."""
        scored_tasks = replace(self._with_loss(tasks), query=scored)
        return scored_tasks.score(lambda x: predictions, pooled=False)  # noqa: ARG005

    def _with_loss(self, tasks: Tasks) -> Tasks:
        return tasks.minimising(negative_log_likelihood) if self.has_scale else tasks


def full_precision(outputs: Tensor) -> Tensor:
    """Return half-precision outputs in float32, because likelihoods need more digits."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs
