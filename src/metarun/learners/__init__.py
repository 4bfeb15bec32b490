"""How a support set becomes a predictor (`algo=`); knows nothing of files and Hydra."""

from metarun.learners.gradient.adaptation import AdaptedParameters, GradientAdaptation
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.learner import Graph, Learner, Scores

__all__ = ["AdaptedParameters", "GradientAdaptation", "Graph", "InnerLoop", "Learner", "Scores"]
