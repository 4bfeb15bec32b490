"""Update rules of the inner loop, fixed and learned (`inner=`)."""

from metarun.rules.adaptive import Adagrad, Adam, RMSProp
from metarun.rules.coordinatewise import LSTM, MLP
from metarun.rules.hypernet import Hypernet
from metarun.rules.learned_rates import LearnedRates
from metarun.rules.meta_curvature import MetaCurvature
from metarun.rules.metz import MetzMLP
from metarun.rules.rule import Parameters, UpdateRule
from metarun.rules.sgd import SGD, Momentum

__all__ = [
    "LSTM",
    "MLP",
    "SGD",
    "Adagrad",
    "Adam",
    "Hypernet",
    "LearnedRates",
    "MetaCurvature",
    "MetzMLP",
    "Momentum",
    "Parameters",
    "RMSProp",
    "UpdateRule",
]
