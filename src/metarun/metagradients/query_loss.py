"""The gradient of the query loss after adaptation, through the inner loop."""

from __future__ import annotations

from typing import Any

from metarun.learners import Graph, Learner, Scores
from metarun.metagradients.metagradient import MetaGradient
from metarun.tasks import TaskBatch


class Exact(MetaGradient):
    """dL_query(φ(θ))/dθ with every derivative (MAML, Finn et al. 2017, arXiv:1703.03400, algorithm 1)."""

    graph: Graph = "exact"

    def accumulate(self, learner: Learner[Any], tasks: TaskBatch, weight: float) -> Scores:
        """Differentiate the query loss of these tasks through their inner loops."""
        scores = learner.scores(learner.adapt(tasks.support, self.graph), tasks.query)
        (weight * scores["loss"].sum()).backward()  # type: ignore[no-untyped-call]
        return scores


class FirstOrder(Exact):
    """The same with the inner gradients taken as constants (first-order MAML, section 5.2 there)."""

    graph = "first_order"
