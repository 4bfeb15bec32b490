"""The page of all config keys, from the schema that checks them and the comments of conf/."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import yaml

from generate.results import as_text, in_a_cell
from metarun.config.composition import compose_config
from metarun.config.options import CONF, groups
from metarun.engine.settings import EngineSettings
from metarun.errors import MetarunError
from metarun.experiment.config import GIVEN, SHARED, TrainSettings
from metarun.experiment.outer import OuterSettings
from metarun.experiment.schema import locate, settings_fields, target_fields

_SETTINGS = {"train": TrainSettings, "outer": OuterSettings, "engine": EngineSettings}
_WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "any"}
_LARGE = 1e6  # limits beyond it are those of the machine
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def config_page() -> str:
    """Return all groups, options and keys, with their types, values and comments."""
    lines = [
        "# All config keys",
        "",
        "`metarun GROUP=OPTION` chooses an option, `GROUP.KEY=VALUE` sets a key. Types and ranges are those "
        "that are checked before any work begins.",
        "",
    ]
    for group, options in groups([CONF]).items():
        if group in ("experiment", "search") or group.startswith("hydra"):
            continue
        lines += [f"## `{group}=`", ""]
        for option in options:
            lines += [
                f"### `{group}={option.name}`",
                "",
                option.description,
                "",
                *keys_of(group, option.name),
            ]
    lines += ["## `experiment=`", "", "| option | |", "|---|---|"]
    lines += [f"| `{each.name}` | {in_a_cell(each.description)} |" for each in groups([CONF])["experiment"]]
    return "\n".join([*lines, ""])


def keys_of(group: str, option: str) -> list[str]:
    """Return a table of the keys of an option."""
    path = CONF / group / f"{option}.yaml"
    node = _composed(group, option)
    prefix = group
    if group == "logger":
        ((name, node),) = node.items()
        prefix = f"logger.{name}"
    types, defaults = _schema(group, node)
    if not types:
        return []
    comments: dict[str, str] = {}
    for each in (path, *sorted((CONF / group).rglob("*.yaml")), CONF / "config.yaml"):
        comments = _comments(each) | comments
    rows = ["| key | type | value | |", "|---|---|---|---|"]
    for key, kind in types.items():
        value = node.get(key, defaults.get(key, _NONE))
        shown = "" if value is _NONE else f"`{json.dumps(value, ensure_ascii=False, default=str)}`"
        cells = [f"`{prefix}.{key}`", type_name(kind), shown, as_text(comments.get(key, ""))]
        rows.append(f"| {' | '.join(in_a_cell(cell) for cell in cells)} |")
    return [*rows, ""]


_NONE = object()


def _composed(group: str, option: str) -> dict[str, Any]:
    """Return the keys of an option, with those that it includes; its own where it needs others typed."""
    try:
        composed = compose_config([f"{group}={option}"])
    except MetarunError:
        own = yaml.safe_load((CONF / group / f"{option}.yaml").read_text("utf-8")) or {}
        return dict(own.get(group, own))
    return dict(composed[group])


def _schema(group: str, node: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return types and defaults of the keys of an option."""
    if group in _SETTINGS:
        return settings_fields(_SETTINGS[group]).types, {}
    types: dict[str, Any] = {}
    defaults: dict[str, Any] = {}
    if node.get("_target_"):
        try:
            target = locate(group, node)
        except MetarunError:  # its package is not installed here
            return {}, {}
        types, defaults = target_fields(target, GIVEN.get(group, ())).types, _defaults(target)
    if group in SHARED:
        types = {**types, **settings_fields(SHARED[group]).types}
    return types, defaults


def _defaults(target: Any) -> dict[str, Any]:
    """Return the defaults of a class's constructor and of those of its parents."""
    makers = [target]
    if inspect.isclass(target):
        makers = [vars(kind)["__init__"] for kind in inspect.getmro(target) if "__init__" in vars(kind)]
    found: dict[str, Any] = {}
    for make in makers:
        for name, parameter in inspect.signature(make).parameters.items():
            if parameter.default is not parameter.empty:
                found.setdefault(name, parameter.default)
    return found


def _comments(path: Path) -> dict[str, str]:
    """Return the comment of each key of a yaml."""
    lines = path.read_text("utf-8").splitlines()
    matches = (re.match(r"\s*(\w+):.*?\s#\s*(.*)$", line) for line in lines)
    return {match[1]: match[2] for match in matches if match}


def type_name(kind: Any) -> str:
    """Return a type of the schema in words: its choices, its range, or its name."""
    origin, arguments = get_origin(kind), get_args(kind)
    name = "null" if kind in (None, type(None)) else getattr(kind, "__name__", str(kind))
    if origin is Literal:
        return ", ".join(each if isinstance(each, str) else json.dumps(each) for each in arguments)
    if hasattr(kind, "__metadata__"):
        limits = " ".join(_limits(each) for each in kind.__metadata__)
        return f"{type_name(kind.__origin__)} {limits}".strip()
    if inspect.isclass(origin) and origin is not UnionType:
        inner = ", ".join(dict.fromkeys(type_name(each) for each in arguments if each is not Ellipsis))
        return f"{'mapping' if issubclass(origin, Mapping) else 'list'} of {inner}"
    if arguments:
        return " or ".join(dict.fromkeys(type_name(each) for each in arguments))
    return _WORDS.get(name, name)


def _limits(constraint: Any) -> str:
    """Return the limits of a pydantic annotation, as in "≥ 1"."""
    parts = [constraint, *(getattr(constraint, "metadata", None) or [])]
    found = (
        (sign, value)
        for part in parts
        for name, sign in _SIGNS.items()
        if isinstance(value := getattr(part, name, None), int | float)
    )
    return " ".join(f"{sign} {value:g}" for sign, value in found if value < _LARGE)
