"""Proto-MAML: gradient adaptation of a network whose head starts from the task's class means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from metarun.errors import ConfigError
from metarun.learners.embedding_learner import class_means, support_labels
from metarun.learners.gradient.adaptation import GradientAdaptation
from metarun.learners.gradient.graph import Graph
from metarun.learners.gradient.parameters import AdaptedParameters
from metarun.learners.gradient.task_forward import TaskForward
from metarun.learners.one_pass import size_of
from metarun.rules import Parameters
from metarun.tasks import Targets, Tasks

WEIGHT, BIAS = "head.weight", "head.bias"


class HeadedForward(TaskForward):
    """The forward pass of a network without a head, then of each task's own head."""

    def __call__(self, params: Parameters, shared: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Map x [T, n, …] to logits [T, n, classes]; `params` hold the heads too."""
        body = {name: p for name, p in params.items() if name not in (WEIGHT, BIAS)}
        return torch.baddbmm(params[BIAS][:, None], self.features(body, shared, x), params[WEIGHT].mT)

    def features(self, params: Parameters, shared: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """Map x [T, n, …] to embeddings [T, n, features]."""
        return super().__call__(params, shared, x).flatten(2)


class ProtoMAML(GradientAdaptation):
    """Inner steps from a head with weights 2 c_k and biases −‖c_k‖², which is a prototypical network.

    Triantafillou et al. 2020, "Meta-Dataset", arXiv:1903.03096, section 3.1. c_k is the mean embedding of
    class k's support examples. The outer loop differentiates the initial head, too. The model has no head of
    its own, so tasks may have any number of classes.

    Args:
        training_output_size: number of classes of a training task, for rules with weights for each parameter.
        **shared: see GradientAdaptation; `start` must be `learned`.

    Raises:
        ConfigError: `start` is `fresh`, or the model has no attribute `features`.
    """

    needs = frozenset({"model", "rule", "loop", "seed", "seeding", "training_output_size"})
    targets: ClassVar[Targets | None] = "classes"

    def __init__(self, *, training_output_size: int, **shared: Any) -> None:
        if shared.get("start", "learned") != "learned":
            raise ConfigError(
                "@learner.start=fresh draws the parameters of a task, here its head starts from class means",
                "@learner.start=learned",
            )
        size_of(shared["model"])
        self._classes = training_output_size
        super().__init__(**shared)
        self.adapted_names |= {WEIGHT, BIAS}

    @classmethod
    def model_output_size(cls, output_size: int | None) -> int | None:  # noqa: ARG003
        """Return None: the model has no head."""
        return None

    def _make_forward(self, model: nn.Module) -> TaskForward:
        return HeadedForward(model)

    def _like(self, model: nn.Module) -> dict[str, Tensor]:
        p = next(model.parameters())
        weight = p.new_zeros(self._classes, size_of(model))
        return {**super()._like(model), WEIGHT: weight, BIAS: weight[:, 0]}

    def _start(self, tasks: Tasks, graph: Graph) -> AdaptedParameters:
        start = super()._start(tasks, graph)
        assert isinstance(self._forward, HeadedForward)
        # From θ, not from `start`: inner gradients with respect to the body take the head as a constant.
        count = len(tasks)
        theta = {n: p.expand(count, *p.shape) for n, p in self.model.named_parameters() if n in start.params}
        with torch.set_grad_enabled(graph != "none"):
            features = self._forward.features(theta, start.shared, tasks.support.x)
            means = class_means(features, support_labels(tasks, features.dtype))
            params = {**start.params, WEIGHT: 2 * means, BIAS: -means.square().sum(2)}
        return replace(start, params=params, start=params)
