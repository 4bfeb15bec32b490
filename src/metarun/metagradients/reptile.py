"""Reptile: towards where the inner loop went."""

from __future__ import annotations

from typing import Any

import torch

from metarun.learners import GradientAdaptation, Learner, Scores
from metarun.metagradients.metagradient import Gradients, MetaGradient, check_trains_the_start
from metarun.tasks import TaskBatch


class Reptile(MetaGradient):
    """θ − θ_K, the way back from the adapted parameters (Nichol et al. 2018, arXiv:1803.02999, algorithm 2).

    With the outer rule θ ← θ − ε · (mean over tasks) this is Reptile's θ ← θ + ε (θ_K − θ). The query set
    plays no part in it; its scores are measured for people to read. What the rule carries from task to task
    goes the whole way to the mean of what the tasks leave.
    """

    carries = True
    second_order = False

    def check(self, learner: Learner[Any]) -> None:
        """Raise ConfigError for a learner that does not adapt θ, or has meta-parameters besides θ."""
        check_trains_the_start("reptile", learner)

    def gradients(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> tuple[Gradients, Scores]:
        """Return weight · Σ (θ − θ_K), and the query scores at θ_K."""
        assert isinstance(learner, GradientAdaptation)  # or check would have refused it
        adapted = learner.adapt(tasks.support, "none")
        with torch.no_grad():
            differences = {
                f"model.{name}": weight * (p - adapted.params[name]).sum(0)
                for name, p in learner.model.named_parameters()
                if name in adapted.params
            }
            left = learner.rule.carried(adapted.state, learner.loop.count(learner.training))
            for name, after in left.items():
                before = learner.rule.get_parameter(name)
                differences[f"rule.{name}"] = weight * (before - after).sum(0)
            return differences, learner.scores(adapted, tasks.query)
