"""Learners, which map a support set to a predictor (`algo=`); independent of files and Hydra."""

from metarun.learners.baselines.finetuning import Finetuning
from metarun.learners.baselines.head import NewHead
from metarun.learners.baselines.pretrained import Pretrained
from metarun.learners.closed_form.logistic import LogisticRegression
from metarun.learners.closed_form.ridge import RidgeRegression
from metarun.learners.closed_form.svm import MetaOptNet
from metarun.learners.embedding_learner import EmbeddingLearner
from metarun.learners.gradient.adaptation import Derivatives, GradientAdaptation
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.parameters import AdaptedParameters
from metarun.learners.gradient.prototypes import ProtoMAML
from metarun.learners.kinds import with_inner_loop
from metarun.learners.learner import IterativeLearner, Learner
from metarun.learners.metric.matchingnet import MatchingNet
from metarun.learners.metric.protonet import ProtoNet
from metarun.learners.metric.relationnet import RelationNet

__all__ = [
    "AdaptedParameters",
    "Derivatives",
    "EmbeddingLearner",
    "Finetuning",
    "GradientAdaptation",
    "InnerLoop",
    "IterativeLearner",
    "Learner",
    "LogisticRegression",
    "MatchingNet",
    "MetaOptNet",
    "NewHead",
    "Pretrained",
    "ProtoMAML",
    "ProtoNet",
    "RelationNet",
    "RidgeRegression",
    "with_inner_loop",
]
