"""Calling a module with other tensors in place of its parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Places:
    """The places of each parameter and buffer of a module; a tied weight has several places.

    This class calls `torch.func.functional_call` with one name per place. Otherwise that function would treat
    a layer that is registered under two names as two layers, and would leave the tensors of the call in the
    module (torch 2.13).

    Args:
        module: the module; its copies have the same places.
    """

    def __init__(self, module: nn.Module) -> None:
        self._names: dict[str, list[str]] = {}
        first_names: dict[int, str] = {}
        visited: set[tuple[int, str]] = set()
        for named_tensors in (module.named_parameters, module.named_buffers):
            for name, tensor in named_tensors(remove_duplicate=False):
                owner, _, attribute = name.rpartition(".")
                place = (id(module.get_submodule(owner)), attribute)
                if place not in visited:
                    visited.add(place)
                    self._names.setdefault(first_names.setdefault(id(tensor), name), []).append(name)

    def call(self, module: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        """Call the module with these tensors in place of its own.

        Args:
            module: the module; unchanged after the call.
            tensors: tensors by their name in `named_parameters` or `named_buffers`; the module's own tensors
                are used for other names.
            inputs: arguments of the forward pass.
        """
        by_place = {
            place: tensors[name]
            for name, places in self._names.items()
            if name in tensors
            for place in places
        }
        return functional_call(module, by_place, inputs, tie_weights=False)
