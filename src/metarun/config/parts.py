"""Datasets inside a dataset: another one to test on (`data.test`), those of a mixture (`data.sources`)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from metarun.config.options import CONF
from metarun.errors import ConfigError, did_you_mean
from metarun.experiment.config import PLACES

_AS_THE_WHOLE = ("size", "channels", "seed", "test")


def with_parts(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `data` with each dataset that they name as keys of its own, as in its yaml.

    A name is that of an option of `data`, NAME:FOLDER with its files, or a mapping with the key `data` and
    others.
    Keys that all datasets share are left to the whole: sizes of episodes, and of images.

    Raises:
        ConfigError: there is no such option, or a key is missing.
    """
    result = dict(data)
    if result.get("test") is not None:
        result["test"] = _part("data.test", result["test"])
        if str(result["test"]["label"]).partition(":")[0] == "folder":
            result["test"].setdefault("shares", [0, 0, 1])  # where its folders do not say it, all are new
    if isinstance(result.get("sources"), list):
        result["sources"] = [_part("data.sources", given) for given in result["sources"]]
    return result


def _part(key: str, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping) and "_target_" in given:
        return {"label": str(given["_target_"]).rpartition(".")[2], **given}
    typed = (
        {str(name): value for name, value in given.items()} if isinstance(given, Mapping) else {"data": given}
    )
    name, _, place = str(typed.pop("data", "nothing")).partition(":")
    options = sorted(path.stem for path in (CONF / "data").glob("*.yaml") if path.stem != "mixture")
    if name not in options:
        raise ConfigError(
            f"{key}={given}: {name} is no dataset{did_you_mean(name, options)}: type the name of one, as in "
            f"{key}=omniglot, or NAME:FOLDER, as in {key}=folder:photographs"
        )
    node = _own_keys(name)
    if place:
        places = [each for each in PLACES if each in node]
        if not places:
            raise ConfigError(f"{key}={given}: {name} reads no files: type {key}={name}")
        typed[places[0]] = place
    if name == "folder" and "shares" not in typed:
        del node["shares"]  # the class's own, or those of a test
    named = next((str(typed[each]) for each in PLACES if isinstance(typed.get(each), str)), "")
    label = f"{name}:{Path(named).name}" if named else name
    return {**node, **typed, "label": label}


@cache
def _shared_keys() -> frozenset[str]:
    keys = set(_AS_THE_WHOLE)
    for path in (CONF / "data" / "_keys").glob("*.yaml"):
        keys |= yaml.safe_load(path.read_text(encoding="utf-8"))["data"].keys()
    return frozenset(keys - {"shares"})


def _own_keys(name: str) -> dict[str, Any]:
    """Return the keys of an option that no other has, with their values."""
    content = yaml.safe_load((CONF / "data" / f"{name}.yaml").read_text(encoding="utf-8"))
    node = content["data"] if isinstance(content.get("data"), dict) else content
    return {key: value for key, value in node.items() if key not in _shared_keys()}
