"""The outer objective: the weights of the query losses after each inner step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners import IterativeLearner, Learner
from metarun.metagradients.metagradient import AnyLearner, Gradients, MetaGradient, Progress
from metarun.tasks import Scores, Tasks

Objective = Literal["final", "mean", "annealed"]

Fraction = Annotated[float, Field(ge=0, le=1)]


class QueryLoss(MetaGradient[AnyLearner]):
    """A meta-gradient of Σ w_k L_query(φ_k), φ_k the parameters after inner step k = 1 … K.

    Args:
        objective: `final`: only the last step counts; `mean`: all steps count equally (learned optimizers,
            Andrychowicz et al. 2016, equation 3, divided by K); `annealed`: from `mean` to `final` (the
            multi-step loss of MAML++, Antoniou et al. 2019, arXiv:1810.09502, equation 2).
        anneal_for: fraction of all meta-steps that the annealing takes.

    Raises:
        ConfigError: an annealed objective without anneal_for, or anneal_for with another objective.
    """

    def __init__(self, *, objective: Objective = "final", anneal_for: Fraction = 0.0) -> None:
        if (objective == "annealed") != (anneal_for > 0):
            wanted = "0.1, or another fraction of all meta-steps" if objective == "annealed" else "0"
            raise ConfigError(
                f"@metagradient.objective={objective} and @metagradient.anneal_for={anneal_for} do not agree",
                f"@metagradient.anneal_for={wanted}",
            )
        self.objective, self.anneal_for = objective, anneal_for
        self.constant = objective != "annealed"
        if objective != "final":
            self.learner = IterativeLearner

    def weights(self, steps: int, progress: Progress) -> list[float]:
        """Return w_0, …, w_K for K inner steps; [1] for K = 0."""
        if steps == 0:
            return [1.0]
        uniform = 0.0 if self.objective == "final" else 1.0
        if self.objective == "annealed":
            uniform = 1 - min(1.0, progress.fraction / self.anneal_for)
        return [0.0, *[uniform / steps] * (steps - 1), uniform / steps + 1 - uniform]

    def terms(
        self, learner: IterativeLearner[Any], tasks: Tasks, trajectory: Iterator[Any], progress: Progress
    ) -> Iterator[tuple[int, Tensor, Scores]]:
        """Yield the step, its weighted losses [T] and its scores for each step with a nonzero weight.

        The last step is always yielded.
        """
        weights = self.weights(learner.steps, progress)
        for step, (adapted, weight) in enumerate(zip(trajectory, weights, strict=True)):
            if weight or step == learner.steps:
                scores = learner.scores(adapted, tasks)
                yield step, weight * scores["loss"], scores


def differentiate(losses: Tensor, learner: Learner[Any]) -> Gradients:
    """Return the gradient of the sum of losses with respect to every meta-parameter that they depend on."""
    parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(losses.sum(), list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, gradients, strict=True) if g is not None}
