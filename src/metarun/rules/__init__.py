"""Update rules of the inner loop, fixed and learned (`inner=`)."""

from metarun.rules.adam import Adam
from metarun.rules.metasgd import MetaSGD
from metarun.rules.rule import Parameters, UpdateRule
from metarun.rules.sgd import SGD

__all__ = ["SGD", "Adam", "MetaSGD", "Parameters", "UpdateRule"]
