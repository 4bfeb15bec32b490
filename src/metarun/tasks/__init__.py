"""Where tasks come from (`data=`); knows nothing of models and learners."""

from metarun.tasks.batch import SPLITS, Examples, Loss, Split, TaskBatch, TaskSource
from metarun.tasks.binary_classification import BinaryClassification
from metarun.tasks.linear_regression import LinearRegression
from metarun.tasks.omniglot import Omniglot
from metarun.tasks.quadratics import Quadratics
from metarun.tasks.sinusoid import Sinusoid

__all__ = [
    "SPLITS",
    "BinaryClassification",
    "Examples",
    "LinearRegression",
    "Loss",
    "Omniglot",
    "Quadratics",
    "Sinusoid",
    "Split",
    "TaskBatch",
    "TaskSource",
]
