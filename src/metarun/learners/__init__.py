"""Learners, which map a support set to a predictor (`algo=`); independent of files and Hydra."""

from metarun.learners.gradient.adaptation import Derivatives, GradientAdaptation
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.parameters import AdaptedParameters
from metarun.learners.kinds import with_inner_loop
from metarun.learners.learner import IterativeLearner, Learner

__all__ = [
    "AdaptedParameters",
    "Derivatives",
    "GradientAdaptation",
    "InnerLoop",
    "IterativeLearner",
    "Learner",
    "with_inner_loop",
]
