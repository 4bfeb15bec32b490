"""Meta-gradients: the directions that the outer loop follows (`metagradient=`)."""

from metarun.metagradients.evolution import EvolutionStrategies
from metarun.metagradients.implicit import Implicit
from metarun.metagradients.metagradient import Gradients, MetaGradient, MetaStep, Progress
from metarun.metagradients.query_loss import Exact, FirstOrder
from metarun.metagradients.reptile import Reptile
from metarun.metagradients.windows import Truncated

__all__ = [
    "EvolutionStrategies",
    "Exact",
    "FirstOrder",
    "Gradients",
    "Implicit",
    "MetaGradient",
    "MetaStep",
    "Progress",
    "Reptile",
    "Truncated",
]
