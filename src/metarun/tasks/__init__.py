"""Tasks and their sources (`data=`), independent of models and learners."""

from metarun.system.callable_package import make_callable
from metarun.tasks.binary_classification import BinaryClassification
from metarun.tasks.gaussian_classes import GaussianClasses
from metarun.tasks.gaussian_process import GaussianProcess
from metarun.tasks.harmonic import Harmonic
from metarun.tasks.image_completion import ImageCompletion
from metarun.tasks.images.class_episodes import ClassEpisodes
from metarun.tasks.images.folder import ImageFolder
from metarun.tasks.images.omniglot import Omniglot
from metarun.tasks.images.published.datasets import (
    CUB,
    FC100,
    Aircraft,
    CifarFS,
    MiniImageNet,
    TieredImageNet,
    VGGFlower,
)
from metarun.tasks.images.published.quickdraw import QuickDraw
from metarun.tasks.linear_functions import LinearFunctions
from metarun.tasks.linear_regression import LinearRegression
from metarun.tasks.metrics import Loss, Measure, Metric, Predictions, Scores, Scoring
from metarun.tasks.quadratics import Quadratics
from metarun.tasks.sinusoid import Sinusoid
from metarun.tasks.tables.bundled import BundledTable
from metarun.tasks.tables.prior import TabularPrior
from metarun.tasks.types import (
    SPLITS,
    Examples,
    Predict,
    Split,
    Targets,
    Tasks,
    TaskSource,
    TrainsOn,
    targets_of,
)

__all__ = [
    "CUB",
    "FC100",
    "SPLITS",
    "Aircraft",
    "BinaryClassification",
    "BundledTable",
    "CifarFS",
    "ClassEpisodes",
    "Examples",
    "GaussianClasses",
    "GaussianProcess",
    "Harmonic",
    "ImageCompletion",
    "ImageFolder",
    "LinearFunctions",
    "LinearRegression",
    "Loss",
    "Measure",
    "Metric",
    "MiniImageNet",
    "Omniglot",
    "Predict",
    "Predictions",
    "Quadratics",
    "QuickDraw",
    "Scores",
    "Scoring",
    "Sinusoid",
    "Split",
    "TabularPrior",
    "Targets",
    "TaskSource",
    "Tasks",
    "TieredImageNet",
    "TrainsOn",
    "VGGFlower",
    "targets_of",
]

make_callable(__name__, "metarun.api.episodes", "tasks")
