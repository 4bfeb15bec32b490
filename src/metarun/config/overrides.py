"""key=value words that change a composed config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from metarun.config.composition import COMPOSITION_ERRORS, explain
from metarun.errors import ConfigError


def single_values(words: Sequence[str]) -> list[Override]:
    """Parse words that each set one key to one value.

    Raises:
        ConfigError: a word does something else.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except COMPOSITION_ERRORS as error:
        raise explain(error, words) from error
    for override in parsed:
        if override.is_delete():
            raise ConfigError(f"{override.input_line}: every key is needed; type another value")
        if override.is_sweep_override():
            raise ConfigError(f"{override.input_line}: one value at a time; quote a text that has commas")
    return parsed


def set_key(config: dict[str, Any], override: Override) -> dict[str, Any]:
    """Set a dotted key of a config in place, and return the node that holds it.

    Raises:
        ConfigError: a part of the key has no keys.
    """
    *parents, name = override.key_or_group.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent)
        if not isinstance(node, dict):
            raise ConfigError(f"{override.input_line}: {parent} has no keys")
    node[name] = override.value()
    assert isinstance(node, dict)
    return node
