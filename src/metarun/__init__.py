"""metarun: a command-line experiment runner for meta-learning in PyTorch.

Importing the package is light: torch and Hydra are imported by the modules that need them. docs/python.md
describes its public names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarun import runs as runs
    from metarun import tasks as tasks
    from metarun.api.runs import Run as Run
    from metarun.api.training import compose as compose
    from metarun.api.training import train as train
    from metarun.evaluation.prediction.estimator import load as load

__version__ = "0.2.0"
__all__ = ["Run", "__version__", "compose", "load", "runs", "tasks", "train"]

# Public names, and where they are; runs and tasks are packages that can be called.
_PLACES = {
    "Run": "metarun.api.runs",
    "compose": "metarun.api.training",
    "load": "metarun.evaluation.prediction.estimator",
    "train": "metarun.api.training",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used."""
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
