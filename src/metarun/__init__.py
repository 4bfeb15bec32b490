"""metarun: a command-line experiment runner for meta-learning in PyTorch.

Importing the package is light: torch and Hydra are imported by the modules that need them.

`metarun.load(run)` is a run's learner with the manners of scikit-learn; docs/using.md describes it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun.evaluation.prediction.estimator import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

# Public names, and where they are.
_PLACES = {"load": "metarun.evaluation.prediction.estimator"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
