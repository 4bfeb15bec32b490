"""Meta-gradients from perturbed copies of a learner, without derivatives: ES and PES."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from pydantic import PositiveFloat
from torch import Tensor

from metarun.fields import Size
from metarun.learners import IterativeLearner
from metarun.learners.soundness import copied
from metarun.metagradients.metagradient import Gradients, MetaStep, Progress
from metarun.metagradients.objective import Fraction, Objective
from metarun.metagradients.windows import Update, Windowed
from metarun.system.randomness import state
from metarun.tasks import Scores, Tasks


class EvolutionStrategies(Windowed[IterativeLearner[Any]]):
    """The gradient of the objective smoothed by a normal distribution, estimated from antithetic pairs.

    A pair adapts with the meta-parameters θ + σε and θ − σε, ε standard normal. Its estimate is
    ε (L₊ − L₋) / 2σ (Salimans et al. 2017, arXiv:1703.03864), which stays bounded for long inner loops, where
    the exact gradient explodes.

    With a window of n inner steps, each window draws a new ε, and its losses are multiplied by the sum ξ of
    all ε so far (persistent evolution strategies, Vicol, Metz & Sohl-Dickstein 2021, arXiv:2112.13835,
    equation 8). This is unbiased, too. Its variance is mostly lower for a learned rule, and higher for an
    initialisation, which only the first ε perturbs. In the paper the outer loop updates after each window.

    Args:
        sigma: σ.
        pairs: number of antithetic pairs; all tasks of a meta-batch share them.
        window: inner steps with the same perturbation; null: all inner steps (plain evolution strategies).
        update: see Windowed.
        objective: see QueryLoss.
        anneal_for: see QueryLoss.
    """

    second_order = False

    def __init__(
        self,
        *,
        sigma: PositiveFloat = 0.01,
        pairs: Size = 8,
        window: Size | None = None,
        update: Update = "horizon",
        objective: Objective = "mean",
        anneal_for: Fraction = 0.0,
    ) -> None:
        super().__init__(window=window, update=update, objective=objective, anneal_for=anneal_for)
        self.learner = IterativeLearner
        self.sigma, self.pairs = sigma, pairs
        self.constant = False

    def each_window(
        self, learner: IterativeLearner[Any], tasks: Tasks, progress: Progress, weight: float
    ) -> Iterator[MetaStep]:
        """Yield the estimated gradient of each window; scores are means over the perturbed learners."""
        steps = learner.steps
        weights = self.weights(steps, progress)
        learners = copied(learner), copied(learner)
        # The same seeds for all chunks of a meta-batch, in every thread and process.
        seeds = [state(progress.seed, f"perturbations of pair {n}", progress.step) for n in range(self.pairs)]
        window = self.window or max(steps, 1)
        pairs: Iterable[_Pair] = (_Pair(learners, tasks, seed) for seed in seeds)
        if window < steps:  # all pairs advance together: each keeps two φ and two rule states
            pairs = list(pairs)
        share = weight / (2 * self.sigma * self.pairs)
        for end in range(window, steps + window, window) if steps else [0]:
            span = range(end - window + 1 if end > window else 0, min(end, steps) + 1)
            theta = {name: p.detach() for name, p in learner.named_parameters() if p.requires_grad}
            total = {name: torch.zeros_like(p) for name, p in theta.items()}
            scores: list[Scores] = []
            for pair in pairs:
                scores += pair.advance(theta, self.sigma, {k: weights[k] for k in span}, total)
            if scores:
                means = {name: torch.stack([values[name] for values in scores]).mean(0) for name in scores[0]}
                yield MetaStep({name: share * gradient for name, gradient in total.items()}, means)


class _Pair:
    """An antithetic pair in the inner loop.

    Args:
        learners: the two learners, which all pairs use in turn.
        tasks: the tasks they adapt to.
        seed: seed of the perturbations.
    """

    def __init__(
        self, learners: tuple[IterativeLearner[Any], IterativeLearner[Any]], tasks: Tasks, seed: int
    ) -> None:
        self._learners, self._tasks = learners, tasks
        self._generator = torch.Generator().manual_seed(seed)
        self._trajectories = [learner.trajectory(tasks.without_answers()) for learner in learners]
        self._xi: Gradients = {}

    def advance(
        self, theta: Mapping[str, Tensor], sigma: float, weights: Mapping[int, float], total: Gradients
    ) -> list[Scores]:
        """Run a window, add its ξ (L₊ − L₋) to `total`, and return both learners' last scores, if any.

        Args:
            theta: the meta-parameters that are perturbed.
            sigma: the size of the perturbation.
            weights: weight of the query loss by step, for the steps of the window.
            total: the sum of gradients by the names of theta; changed in place.
        """
        self._perturb(theta, sigma)
        scores: list[Scores] = []
        difference = self._tasks.support.x.new_zeros(())
        for weight in weights.values():
            with torch.no_grad():
                adapted = [next(trajectory) for trajectory in self._trajectories]
                if weight:
                    scores = [
                        learner.scores(phi, self._tasks)
                        for learner, phi in zip(self._learners, adapted, strict=True)
                    ]
                    plus, minus = (values["loss"].sum() for values in scores)
                    difference = weight * (plus - minus) + difference
        for name, gradient in total.items():
            gradient.add_(self._xi[name] * difference)
        return scores

    def _perturb(self, theta: Mapping[str, Tensor], sigma: float) -> None:
        """Draw the perturbation of a window, apply it to both learners with opposite signs, add it to ξ."""
        plus, minus = (dict(learner.named_parameters()) for learner in self._learners)
        with torch.no_grad():
            for name, p in theta.items():
                noise = torch.randn(p.shape, generator=self._generator, dtype=p.dtype).to(p.device)
                plus[name].copy_(p + sigma * noise)
                minus[name].copy_(p - sigma * noise)
                self._xi[name] = self._xi[name] + noise if name in self._xi else noise
