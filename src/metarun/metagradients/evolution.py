"""Meta-gradients from perturbed copies of a learner, without derivatives: ES and PES."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from metarun.errors import ConfigError
from metarun.learners import GradientAdaptation, Learner, Scores
from metarun.metagradients.metagradient import Gradients
from metarun.metagradients.objective import Over, QueryLoss, Share
from metarun.randomness import state
from metarun.tasks import TaskBatch


class EvolutionStrategies(QueryLoss):
    """The gradient of the objective blurred by a normal distribution, from antithetic pairs.

    A pair adapts with the meta-parameters θ + σε and θ − σε, ε standard normal; its estimate is
    ε (L₊ − L₋) / 2σ (Salimans et al. 2017, arXiv:1703.03864). Long inner loops, whose exact gradient
    explodes, stay well behaved.

    With a window of n inner steps a new ε is drawn for each window, and a window's losses count for the sum ξ
    of all ε up to it (persistent evolution strategies, Vicol, Metz & Sohl-Dickstein 2021, arXiv:2112.13835,
    equation 8): also unbiased, mostly with less variance for a learned rule, and with more for an
    initialisation, on which later windows have no bearing. Here all windows of an inner loop belong to one
    meta-step.

    Args:
        sigma: σ.
        pairs: antithetic pairs; all tasks of a meta-batch share them.
        window: inner steps with the same perturbation; null: all of them (plain evolution strategies).
        objective: of QueryLoss.
        anneal_for: of QueryLoss.
    """

    def __init__(
        self,
        *,
        sigma: PositiveFloat = 0.01,
        pairs: PositiveInt = 8,
        window: PositiveInt | None = None,
        objective: Over = "mean",
        anneal_for: Share = 0.0,
    ) -> None:
        super().__init__(objective=objective, anneal_for=anneal_for)
        self.sigma, self.pairs, self.window = sigma, pairs, window
        self.constant = False
        self._seed = 0

    def begin(self, step: int, steps: int, seed: int) -> None:
        """Hear what the perturbations of the next step follow from."""
        super().begin(step, steps, seed)
        self._seed = seed

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError for a learner without inner steps."""
        if not isinstance(learner, GradientAdaptation):
            raise ConfigError("metagradient=es needs a learner that adapts by gradient: type algo=l2l")

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Estimate the gradient from pairs of perturbed learners; the scores are means over them."""
        assert isinstance(learner, GradientAdaptation)  # or check would have refused it
        # The same for all chunks of a meta-batch, whichever thread or process has them.
        generator = torch.Generator().manual_seed(state(self._seed, "perturbations", self._step))
        theta = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
        total = {name: torch.zeros_like(p) for name, p in theta.items()}
        both = copy.deepcopy(learner), copy.deepcopy(learner)
        scores: list[Scores] = []
        for _ in range(self.pairs):
            scores += self._pair(both, theta, tasks, generator, total)
        share = weight / (2 * self.sigma * self.pairs)
        means = {name: torch.stack([each[name] for each in scores]).mean(0) for name in scores[0]}
        return {name: share * each for name, each in total.items()}, means

    def _pair(
        self,
        both: tuple[GradientAdaptation, GradientAdaptation],
        theta: Mapping[str, Tensor],
        tasks: TaskBatch,
        generator: torch.Generator,
        total: Gradients,
    ) -> list[Scores]:
        """Add Σ over windows of ξ (L₊ − L₋) to `total`, and return both last scores."""
        steps = both[0].loop.count(both[0].training)
        window = self.window or max(steps, 1)
        trajectories = [each.trajectory(tasks.support, "none") for each in both]
        xi = {name: torch.zeros_like(p) for name, p in theta.items()}
        scores: list[Scores] = []
        difference = tasks.support.x.new_zeros(())
        for step, weight in enumerate(self.weights(steps)):
            if step == 0 or (step > 1 and (step - 1) % window == 0):
                self._perturb(both, theta, xi, generator)
            adapted = [next(trajectory) for trajectory in trajectories]
            if weight or step == steps:
                with torch.no_grad():
                    scores = [each.scores(one, tasks.query) for each, one in zip(both, adapted, strict=True)]
                    up, down = (each["loss"].sum() for each in scores)
                difference = weight * (up - down) + difference
            if step == steps or (step > 0 and step % window == 0):
                for name, each in total.items():
                    each.add_(xi[name] * difference)
                difference = tasks.support.x.new_zeros(())
        return scores

    def _perturb(
        self,
        both: tuple[GradientAdaptation, GradientAdaptation],
        theta: Mapping[str, Tensor],
        xi: Gradients,
        generator: torch.Generator,
    ) -> None:
        """Draw the perturbation of a window, give it to both learners with opposite signs, add it to ξ."""
        own = [dict(each.named_parameters()) for each in both]
        with torch.no_grad():
            for name, p in theta.items():
                noise = torch.randn(p.shape, generator=generator, dtype=p.dtype).to(p.device)
                own[0][name].copy_(p + self.sigma * noise)
                own[1][name].copy_(p - self.sigma * noise)
                xi[name] += noise
