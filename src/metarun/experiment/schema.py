"""Checks a config node against the signature of the class it names, or against a settings class.

The signature is the schema: a class's own annotations give types, ranges (pydantic's PositiveInt and the
like) and choices (Literal), so a built-in class and a user's are checked in the same way and nothing is
written twice. Every error is one line that names the key and what to type instead.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from metarun.errors import ConfigError, did_you_mean, in_one_line


def locate(group: str, node: Mapping[str, Any], home: str = "") -> Callable[..., Any]:
    """Import what a node's `_target_` names.

    Args:
        group: the node's own key, for messages.
        node: plain values.
        home: a folder where it may be, named in the message if it cannot be imported.

    Raises:
        ConfigError: there is no `_target_`, or nothing of that name can be imported.
    """
    target = node.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigError(f"{group}._target_={target}: expected a class, as in my_package.my_module.MyClass")
    module_name, _, name = target.rpartition(".")
    try:
        if not all(part.isidentifier() for part in target.split(".")):
            raise ImportError("that is not a Python name")
        target_object = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # a user's module may raise anything
        elsewhere = (
            f": the run was started in {home}; type the command there, or with PYTHONPATH={shlex.quote(home)}"
            if home and Path(home) != Path.cwd()
            else ""
        )
        raise ConfigError(
            f"{group}._target_={target}: cannot be imported ({in_one_line(error)}){elsewhere}"
        ) from error
    if not (inspect.isclass(target_object) or inspect.isroutine(target_object)):
        raise ConfigError(
            f"{group}._target_={target}: expected a class or a function, found {target_object!r:.60}"
        )
    return target_object


@dataclass(frozen=True)
class Fields:
    """The keys of a node: their types, which are required, and whether others, or `_target_`, are allowed."""

    types: dict[str, Any]
    required: frozenset[str]
    open_ended: bool = False
    of_a_target: bool = False

    def __or__(self, other: Fields) -> Fields:
        """Return the keys of both."""
        return Fields(
            self.types | other.types,
            self.required | other.required,
            self.open_ended or other.open_ended,
            self.of_a_target or other.of_a_target,
        )


def settings_fields(settings: type[BaseModel]) -> Fields:
    """Return the keys of a settings class."""
    required = {name for name, field in settings.model_fields.items() if field.is_required()}
    return Fields(get_type_hints(settings, include_extras=True), frozenset(required))


def target_fields(target: Callable[..., Any], given: Collection[str] = ()) -> Fields:
    """Return the arguments of a class or function, without the `given` ones, which metarun passes itself."""
    types: dict[str, Any] = {}
    required = set()
    open_ended = False
    for make in _makers(target):
        try:
            hints = get_type_hints(make, include_extras=True)
        except Exception:  # annotations that only a type checker understands may raise any error
            hints = {}
        parameters = inspect.signature(make).parameters
        if {p.kind for name, p in parameters.items() if name != "self"} == _PASSED_ON:
            continue  # (*args, **kwargs): object's, torch.nn.Module's, or one that only passes them on
        open_ended = False
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_ended = True
            elif name not in ("self", *types, *given) and parameter.kind is not parameter.VAR_POSITIONAL:
                types[name] = hints.get(name, Any)
                if parameter.default is parameter.empty:
                    required.add(name)
        if not open_ended:
            break
    return Fields(types, frozenset(required), open_ended, of_a_target=True)


_PASSED_ON = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}


def _makers(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Return the callables that take the arguments: a class's constructor, then those of its parents."""
    if not inspect.isclass(target):
        return [target]
    return [vars(kind)["__init__"] for kind in inspect.getmro(target) if "__init__" in vars(kind)]


def check(group: str, node: Mapping[str, Any], fields: Fields) -> None:
    """Check the keys and the values of a node.

    Args:
        group: the node's own key, for messages; empty at the root.
        node: plain values.
        fields: what the keys and values may be.

    Raises:
        ConfigError: a key is unknown or missing, or its value has the wrong type or is out of range.
    """
    for key, value in node.items():
        if key == "_target_" and fields.of_a_target:
            continue
        if key not in fields.types and not fields.open_ended:
            known = ", ".join(fields.types) or "(it has none)"
            raise ConfigError(
                f"{_path(group, key)}={_typed(value)}: there is no such key"
                f"{did_you_mean(key, fields.types)}; choose from {known}"
            )
    missing = [key for key in fields.types if key in fields.required - node.keys()]
    if missing:
        raise ConfigError(f"{_path(group, missing[0])} is missing: type {_path(group, missing[0])}=VALUE")
    for key, value in node.items():
        if not isinstance(value, Mapping) and any(abs(number) >= 2**63 for number in _integers(value)):
            raise ConfigError(f"{_path(group, key)}={_typed(value)}: should be less than {2**63}")
    kinds = {key: kind for key, kind in fields.types.items() if key in node}
    model = TypedDict("model", kinds)  # type: ignore[misc]
    # Strict for YAML's own types: from JSON a list is a tuple and 1 is a float, but "1" is no number.
    model.__pydantic_config__ = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)  # type: ignore[attr-defined]
    try:
        TypeAdapter(model).validate_json(json.dumps({key: node[key] for key in kinds}))
    except ValidationError as error:
        raise ConfigError(_one_line(group, node, error)) from error


def _integers(value: Any) -> Iterator[int]:
    """Yield the integers in plain values: torch takes at most 63 bits."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _integers(item)


def _path(group: str, key: str) -> str:
    return f"{group}.{key}" if group else key


def _one_line(group: str, node: Mapping[str, Any], error: ValidationError) -> str:
    """Say in one line what is wrong with the first wrong key."""
    first, *_ = error.errors()
    key = str(first["loc"][0])
    value = node[key]
    # A value that may be of several types has an error for each of them.
    causes = [cause for cause in error.errors() if cause["loc"][0] == key]
    messages = [
        cause["msg"].removeprefix("Value error, ")
        for cause in causes
        if cause["type"] != "needs_python_object"  # a value that JSON cannot hold cannot be typed
    ]
    wanted = " or ".join(dict.fromkeys(m.removeprefix("Input ") for m in messages))
    choices = [
        choice
        for cause in causes
        if cause["type"] == "literal_error"
        for choice in re.findall(r"'([^']+)'", str(cause["ctx"]["expected"]))
    ]
    hint = did_you_mean(value, choices) if isinstance(value, str) else ""
    return f"{_path(group, key)}={_typed(value)}: {wanted}{hint}"


def _typed(value: Any) -> str:
    """Return a value as one would type it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    # A text that looks like a number was typed in quotes: the quotes are the mistake.
    return repr(value) if isinstance(value, str) and value.replace(".", "").isdigit() else str(value)
