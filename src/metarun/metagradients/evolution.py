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
    """The gradient of the objective blurred by a normal distribution, from antithetic pairs.

    A pair adapts with the meta-parameters θ + σε and θ − σε, ε standard normal; its estimate is
    ε (L₊ − L₋) / 2σ (Salimans et al. 2017, arXiv:1703.03864). Long inner loops, whose exact gradient
    explodes, stay well behaved.

    With a window of n inner steps a new ε is drawn for each window, and a window's losses count for the sum ξ
    of all ε up to it (persistent evolution strategies, Vicol, Metz & Sohl-Dickstein 2021, arXiv:2112.13835,
    equation 8): also unbiased, mostly with less variance for a learned rule, and with more for an
    initialisation, on which later windows have no bearing. There the outer loop moves after each.

    Args:
        sigma: σ.
        pairs: antithetic pairs; all tasks of a meta-batch share them.
        window: inner steps with the same perturbation; null: all of them (plain evolution strategies).
        update: of Windowed.
        objective: of QueryLoss.
        anneal_for: of QueryLoss.
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
        """Estimate each window's gradient from perturbed learners; the scores are means over them."""
        steps = learner.steps
        weights = self.weights(steps, progress)
        both = copied(learner), copied(learner)
        # The same for all chunks of a meta-batch, whichever thread or process has them.
        seeds = [state(progress.seed, f"perturbations of pair {n}", progress.step) for n in range(self.pairs)]
        window = self.window or max(steps, 1)
        pairs: Iterable[_Pair] = (_Pair(both, tasks, seed) for seed in seeds)
        if window < steps:  # all are in the same window: each keeps two φ and two states of the rule
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
                means = {name: torch.stack([each[name] for each in scores]).mean(0) for name in scores[0]}
                yield MetaStep({name: share * each for name, each in total.items()}, means)


class _Pair:
    """An antithetic pair on its way through the inner loop.

    Args:
        both: the two learners, which all pairs use in turn.
        tasks: what they adapt to.
        seed: of the perturbations.
    """

    def __init__(
        self, both: tuple[IterativeLearner[Any], IterativeLearner[Any]], tasks: Tasks, seed: int
    ) -> None:
        self._both, self._tasks = both, tasks
        self._generator = torch.Generator().manual_seed(seed)
        self._trajectories = [each.trajectory(tasks.without_answers()) for each in both]
        self._xi: Gradients = {}

    def advance(
        self, theta: Mapping[str, Tensor], sigma: float, weights: Mapping[int, float], total: Gradients
    ) -> list[Scores]:
        """Go through a window, add its ξ (L₊ − L₋) to `total`, and return both last scores, if it has any.

        Args:
            theta: the meta-parameters that are perturbed.
            sigma: the size of the perturbation.
            weights: of the query loss after each step of the window.
            total: by the names of theta.
        """
        self._perturb(theta, sigma)
        scores: list[Scores] = []
        difference = self._tasks.support.x.new_zeros(())
        for weight in weights.values():
            with torch.no_grad():
                adapted = [next(trajectory) for trajectory in self._trajectories]
                if weight:
                    scores = [
                        each.scores(one, self._tasks) for each, one in zip(self._both, adapted, strict=True)
                    ]
                    up, down = (each["loss"].sum() for each in scores)
                    difference = weight * (up - down) + difference
        for name, each in total.items():
            each.add_(self._xi[name] * difference)
        return scores

    def _perturb(self, theta: Mapping[str, Tensor], sigma: float) -> None:
        """Draw the perturbation of a window, give it to both learners with opposite signs, add it to ξ."""
        own = [dict(each.named_parameters()) for each in self._both]
        with torch.no_grad():
            for name, p in theta.items():
                noise = torch.randn(p.shape, generator=self._generator, dtype=p.dtype).to(p.device)
                own[0][name].copy_(p + sigma * noise)
                own[1][name].copy_(p - sigma * noise)
                self._xi[name] = self._xi[name] + noise if name in self._xi else noise
