"""Packages that can be called: `metarun.tasks(…)` and the package `metarun.tasks` share a name."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """A package that calls a function of another module, which is imported then."""

    _called: tuple[str, str]

    def __call__(self, *arguments: Any, **keys: Any) -> Any:
        """Call the function."""
        module, function = self._called
        return getattr(import_module(module), function)(*arguments, **keys)


def make_callable(package: str, module: str, function: str) -> None:
    """Let a package that is being imported be called.

    Args:
        package: its name.
        module: where the function is; a floor above may have it.
        function: its name.
    """
    made = sys.modules[package]
    made.__class__ = CallablePackage
    made._called = (module, function)  # type: ignore[attr-defined]
