"""Reptile: moves the initialisation towards the adapted parameters."""

from __future__ import annotations

import torch

from metarun.learners import GradientAdaptation
from metarun.metagradients.metagradient import MetaGradient, MetaStep, Progress, check_trains_the_start
from metarun.tasks import Tasks


class Reptile(MetaGradient[GradientAdaptation]):
    """θ − θ_K, with θ_K the adapted parameters (Nichol et al. 2018, arXiv:1803.02999, algorithm 2).

    With the outer rule θ ← θ − ε · (mean over tasks) this is Reptile's θ ← θ + ε (θ_K − θ). The query set is
    not used; its scores are only reported. The state that the rule keeps from task to task becomes the mean
    of the tasks' final states.
    """

    learner = GradientAdaptation
    assigns = True
    second_order = False

    def check(self, learner: GradientAdaptation) -> None:
        """Raise ConfigError for a learner that does not adapt θ, or has meta-parameters besides θ."""
        check_trains_the_start("reptile", learner)

    def gradients(
        self,
        learner: GradientAdaptation,
        tasks: Tasks,
        progress: Progress,  # noqa: ARG002
        weight: float,
    ) -> MetaStep:
        """Return weight · Σ (θ − θ_K), and the query scores at θ_K."""
        with torch.no_grad():
            adapted = learner.adapt(tasks.without_answers())
            differences = {
                f"model.{name}": weight * (p - adapted.params[name]).sum(0)
                for name, p in learner.model.named_parameters()
                if name in adapted.params
            }
            final_states = learner.rule.persistent_state(adapted.state, learner.steps)
            assignments = {
                f"rule.{name}": weight * (state - learner.rule.get_parameter(name)).sum(0)
                for name, state in final_states.items()
            }
            return MetaStep(differences, learner.scores(adapted, tasks), assignments)
