"""Learners, which map a support set to a predictor (`algo=`); independent of files and Hydra."""

from metarun.learners.baselines.classical import Classical
from metarun.learners.baselines.finetuning import Finetuning
from metarun.learners.baselines.head import NewHead
from metarun.learners.baselines.pretrained import Pretrained
from metarun.learners.closed_form.logistic import LogisticRegression
from metarun.learners.closed_form.ridge import RidgeRegression
from metarun.learners.closed_form.svm import MetaOptNet
from metarun.learners.embedding_learner import EmbeddingLearner
from metarun.learners.fast_weights.hypernet_head import HypernetHead
from metarun.learners.fast_weights.leo import LEO
from metarun.learners.fast_weights.metanet import MetaNet
from metarun.learners.gradient.adaptation import GradientAdaptation
from metarun.learners.gradient.batched.kernels import available as kernels_available
from metarun.learners.gradient.batched.kernels import use as use_kernels
from metarun.learners.gradient.graph import Derivatives
from metarun.learners.gradient.inner_loop import InnerLoop
from metarun.learners.gradient.parameters import AdaptedParameters
from metarun.learners.gradient.prototypes import ProtoMAML
from metarun.learners.in_context.in_context import InContext
from metarun.learners.in_context.memory import MemoryAugmented
from metarun.learners.in_context.neural_process import NeuralProcess
from metarun.learners.in_context.reading import ReadingLearner
from metarun.learners.in_context.recurrent import Recurrent
from metarun.learners.in_context.snail import SNAIL
from metarun.learners.kinds import with_inner_loop
from metarun.learners.learner import IterativeLearner, Learner
from metarun.learners.metric.feat import FEAT
from metarun.learners.metric.matchingnet import MatchingNet
from metarun.learners.metric.protonet import ProtoNet
from metarun.learners.metric.relationnet import RelationNet
from metarun.learners.metric.simpleshot import SimpleShot
from metarun.learners.oracles.bayes import BayesClassifier
from metarun.learners.oracles.gaussian_process import GaussianProcessOracle
from metarun.learners.oracles.linear import LinearOracle
from metarun.learners.transductive.bdcspn import BDCSPN
from metarun.learners.transductive.laplacianshot import LaplacianShot
from metarun.learners.transductive.pt_map import PTMAP
from metarun.learners.transductive.soft_kmeans import SoftKMeans
from metarun.learners.transductive.tim import TIM

__all__ = [
    "BDCSPN",
    "FEAT",
    "LEO",
    "PTMAP",
    "SNAIL",
    "TIM",
    "AdaptedParameters",
    "BayesClassifier",
    "Classical",
    "Derivatives",
    "EmbeddingLearner",
    "Finetuning",
    "GaussianProcessOracle",
    "GradientAdaptation",
    "HypernetHead",
    "InContext",
    "InnerLoop",
    "IterativeLearner",
    "LaplacianShot",
    "Learner",
    "LinearOracle",
    "LogisticRegression",
    "MatchingNet",
    "MemoryAugmented",
    "MetaNet",
    "MetaOptNet",
    "NeuralProcess",
    "NewHead",
    "Pretrained",
    "ProtoMAML",
    "ProtoNet",
    "ReadingLearner",
    "Recurrent",
    "RelationNet",
    "RidgeRegression",
    "SimpleShot",
    "SoftKMeans",
    "kernels_available",
    "use_kernels",
    "with_inner_loop",
]
