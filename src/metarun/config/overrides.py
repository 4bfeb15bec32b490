"""key=value words on top of a config that was composed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from metarun.config.composition import COMPOSITION_ERRORS, explain
from metarun.errors import ConfigError


def single_values(words: Sequence[str]) -> list[Override]:
    """Parse words that each give one value to one key.

    Raises:
        ConfigError: one of them does something else.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except COMPOSITION_ERRORS as error:
        raise explain(error, words) from error
    for each in parsed:
        if each.is_delete():
            raise ConfigError(f"{each.input_line}: every key is needed; type another value")
        if each.is_sweep_override():
            raise ConfigError(f"{each.input_line}: one value at a time; quote a text that has commas")
    return parsed


def set_key(config: dict[str, Any], each: Override) -> dict[str, Any]:
    """Give a dotted key of a config its value, in place, and return the node that has it.

    Raises:
        ConfigError: a part of the key has no keys.
    """
    *parents, name = each.key_or_group.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent)
        if not isinstance(node, dict):
            raise ConfigError(f"{each.input_line}: {parent} has no keys")
    node[name] = each.value()
    assert isinstance(node, dict)
    return node
