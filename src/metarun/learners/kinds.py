"""Check the kind of a learner, for features that need a certain kind."""

from __future__ import annotations

from torch import nn

from metarun.errors import ConfigError
from metarun.learners.gradient.adaptation import GradientAdaptation


def with_inner_loop(learner: nn.Module, what: str) -> GradientAdaptation:
    """Return the learner, if it adapts by gradient steps.

    Args:
        learner: any learner.
        what: the feature that needs an inner loop, for the message.

    Raises:
        ConfigError: the learner is of another kind.
    """
    if not isinstance(learner, GradientAdaptation):
        raise ConfigError(f"{what} needs a learner with an inner loop, this is a {type(learner).__name__}")
    return learner
