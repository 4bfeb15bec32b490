"""What the outer loop follows (`metagradient=`): exact, first-order, Reptile."""

from metarun.metagradients.metagradient import Gradients, MetaGradient, even_size
from metarun.metagradients.query_loss import Exact, FirstOrder
from metarun.metagradients.reptile import Reptile

__all__ = ["Exact", "FirstOrder", "Gradients", "MetaGradient", "Reptile", "even_size"]
