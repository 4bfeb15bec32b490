"""Hydra's composition: resolvers, plain values, and its errors in one line."""

from __future__ import annotations

import re
import secrets
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metarun.config.options import CONF
from metarun.config.parts import with_parts
from metarun.config.private import forget_registered_launchers
from metarun.errors import ConfigError, MetarunError, did_you_mean
from metarun.experiment.config import read_config

# A message lists at most this many options.
_MOST_OPTIONS = 20

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


# Our files in hydra/launcher; the plugins that they configure register options with the same names.
_OUR_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray")


def prepare_hydra() -> None:
    """Register `${metarun.unique:}`, and remove the plugins' launchers that have the names of ours.

    The resolver returns six random characters, which keep apart two runs of the same second. Hydra would take
    the plugins' launchers for schemas of ours, with a warning each time.
    """
    Plugins.instance()  # imports the plugins
    forget_registered_launchers(_OUR_LAUNCHERS)
    OmegaConf.register_new_resolver(
        "metarun.unique", lambda: secrets.token_hex(3), use_cache=True, replace=True
    )


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain values with all interpolations resolved.

    Raises:
        ConfigError: an interpolation cannot be resolved, a mandatory value is missing, or a dataset inside
            another is unknown.
    """
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(values, dict)
    config = {str(key): value for key, value in values.items()}
    if isinstance(config.get("data"), dict):
        config["data"] = with_parts(config["data"])
    return config


SEARCH_PATH = "hydra.searchpath"


def search_path(config_dirs: Sequence[str]) -> str:
    """Return the override that lets Hydra find options in a user's own folders."""
    places = [folder if "://" in folder else f"file://{Path(folder).absolute()}" for folder in config_dirs]
    # Hydra's grammar needs a backslash before a quote only.
    escaped = [place.replace("'", "\\'") for place in places]
    listed = ",".join(f"'{place}'" for place in escaped)
    return f"{SEARCH_PATH}=[{listed}]"


def own_config_dirs(hydra: Any) -> list[str]:
    """Return a user's own folders of groups, absolute, from Hydra's config of a run or a sweep."""
    typed = ("command-line", f"{SEARCH_PATH} in command-line")
    return [
        str(Path(source.path).absolute()) if source.schema == "file" else f"{source.schema}://{source.path}"
        for source in hydra.runtime.config_sources
        if source.provider in typed
    ]


def choices_of(hydra: Any) -> dict[str, str]:
    """Return the option of each of our groups, from Hydra's config of a run or a job."""
    return {
        group: str(option)
        for group, option in hydra.runtime.choices.items()
        if option is not None and group.partition("/")[0] != "hydra"
    }


def quoted(text: str | Path) -> str:
    """Return a text as a quoted value in Hydra's grammar, with backslash, quote and $ escaped."""
    escaped = str(text).replace("\\", "\\\\").replace("'", "\\'").replace("$", "\\$")
    return f"'{escaped}'"


def as_typed(value: Any) -> str:
    """Return a text, a number, a bool, None, or a list or mapping of them, in Hydra's grammar."""
    if isinstance(value, bool | None):
        return "null" if value is None else str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{','.join(map(as_typed, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{as_typed(each)}' for key, each in value.items())}}}"
    return str(value) if isinstance(value, int | float) else quoted(str(value))


def compose_config(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> dict[str, Any]:
    """Compose the config of these overrides, without running anything; see `compose_with_choices`."""
    return compose_with_choices(overrides, config_dirs)[0]


def compose_with_choices(
    overrides: Sequence[str], config_dirs: Sequence[str] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compose the config of these overrides, and return it with the option of each group; nothing is run.

    Args:
        overrides: as on the command line.
        config_dirs: a user's own folders of groups, as in --config-dir.

    Raises:
        ConfigError: the overrides do not compose.
    """
    prepare_hydra()
    _check_own_options(overrides, config_dirs)
    search = [search_path(config_dirs)] if config_dirs else []
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            node = compose("config", [*search, *overrides], return_hydra_config=True)
            choices = choices_of(node.hydra)
            with open_dict(node):
                del node["hydra"]
            return plain(node), choices
    except MetarunError:
        raise
    except Exception as error:  # Hydra raises many kinds, e.g. for a group replaced by a list or a number
        raise explain(error, overrides, config_dirs) from error


def _check_own_options(overrides: Sequence[str], config_dirs: Sequence[str]) -> None:
    """Raise ConfigError if Hydra would silently misread a user's option, or ignore it.

    Hydra reads a byte-order mark as part of the first line, and so overlooks a `# @package …` there. Where a
    user's option has the name of one of metarun's, Hydra takes metarun's.
    """
    for word in overrides:
        group, _, option = word.lstrip("+").partition("=")
        for folder in config_dirs:
            path = Path(folder, group.partition("@")[0], f"{option}.yaml")
            with suppress(OSError):  # no such file, or not a valid path
                own = CONF / path.relative_to(folder)
                if path.is_file() and own.is_file() and not own.samefile(path):
                    raise ConfigError(
                        f"{path}: {group}={option} is one of metarun's own, which would be taken: give the "
                        f"file another name"
                    )
                if path.is_file() and path.read_bytes().startswith(BOM_UTF8):
                    raise ConfigError(f"{path}: starts with a byte-order mark; save it in UTF-8 without one")


def explain(error: Exception, overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> ConfigError:
    """Return one of Hydra's errors as one line that says what to type instead."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        if len(error.options) > _MOST_OPTIONS:
            near = get_close_matches(option, error.options, n=3, cutoff=0.0)
            choice = f"the nearest are {', '.join(near)}; all of them: metarun list {group}"
        else:
            choice = f"choose from {', '.join(error.options)}"
        return ConfigError(
            f"{group}={option}: there is no such option{did_you_mean(option, error.options)}; {choice}"
        )
    if isinstance(error, UnicodeDecodeError):
        return _not_utf8(error, config_dirs)
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"{error.override}: not of the form key=value; quote a value with special characters, "
            f"as in 'key=\"a b\"' or 'algo.adapts=\"!*.norm.*\"'"
        )
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], overrides, config_dirs)
    if isinstance(error, COMPOSITION_ERRORS):
        return ConfigError(text)
    return ConfigError(f"{' '.join(overrides)}: {text}; a group takes one of its options: metarun list")


def _not_utf8(error: UnicodeDecodeError, config_dirs: Sequence[str]) -> ConfigError:
    """Return an error that names the user's yaml that is not in UTF-8."""
    for folder in config_dirs:
        for path in sorted(Path(folder).rglob("*.yaml")):
            try:
                path.read_text(encoding="utf-8")
            except OSError:  # a broken link or a folder, which Hydra has not read
                continue
            except UnicodeDecodeError as cause:
                line = cause.object[: cause.start].count(b"\n") + 1
                return ConfigError(f"{path}, line {line}: not in UTF-8; save it in that encoding")
    return ConfigError(f"a yaml is not in UTF-8 ({error}): save it in that encoding")


def _unknown_key(key: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> ConfigError:
    """Return the error of our own check, which suggests a key, for a key that Hydra does not know."""
    others = []
    line = f"{key}=null"
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        if override.key_or_group == key and not override.is_sweep_override():
            line = str(override.input_line)
        elif override.key_or_group != key and not override.is_sweep_override():
            others.append(str(override.input_line))
    try:
        read_config(compose_config([*others, f"+{line}"], config_dirs))
    except ConfigError as error:
        return error
    return ConfigError(f"{line}: the config has no such key; type +{line} to add it")
