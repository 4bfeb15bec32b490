"""metarun: a command-line experiment runner for meta-learning in PyTorch.

Importing the package is light: torch and Hydra are imported by the modules that need them.
"""

__version__ = "0.1.0"
