"""A module called with other tensors in the place of its own parameters and buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


class Places:
    """Where each parameter and buffer of a module stands: a tied weight has several names.

    `torch.func.functional_call` is told one name by one. Left to itself it takes the two names of a layer
    that stands in two places for two tensors, and leaves the tensors of the call in the layer (torch 2.13).

    Args:
        module: whose places they are; a copy of it has the same.
    """

    def __init__(self, module: nn.Module) -> None:
        self._names: dict[str, list[str]] = {}
        first: dict[int, str] = {}
        seen: set[tuple[int, str]] = set()
        for named in (module.named_parameters, module.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                owner, _, attribute = name.rpartition(".")
                place = (id(module.get_submodule(owner)), attribute)
                if place not in seen:
                    seen.add(place)
                    self._names.setdefault(first.setdefault(id(tensor), name), []).append(name)

    def call(self, module: nn.Module, tensors: Mapping[str, Tensor], inputs: tuple[Any, ...]) -> Any:
        """Call the module with these tensors in the place of its own.

        Args:
            module: it is as it was after the call.
            tensors: by the names that `named_parameters` and `named_buffers` give; others stay as they are.
            inputs: of its forward pass.
        """
        everywhere = {
            place: tensors[name]
            for name, places in self._names.items()
            if name in tensors
            for place in places
        }
        return functional_call(module, everywhere, inputs, tie_weights=False)
