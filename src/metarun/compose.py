"""Hydra's composition: resolvers, plain values, and its errors in one line."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from metarun.config import read_config
from metarun.errors import ConfigError, MetarunError
from metarun.options import CONF
from metarun.suggest import did_you_mean

COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, YAMLError)


# Files of ours in hydra/launcher; the plugins that they configure register options of the same names.
_OUR_LAUNCHERS = ("joblib", "submitit_local", "submitit_slurm", "ray")


def prepare_hydra() -> None:
    """Make `${metarun.unique:}` known, and our launchers' files the only ones of their names.

    The first is six characters that two runs of one second do not share. The second keeps Hydra from taking
    the plugins' own for a schema of ours, which it would do with a warning each time.
    """
    Plugins.instance()  # has imported the plugins after this
    registered = ConfigStore.instance().repo.get("hydra", {}).get("launcher", {})
    for name in _OUR_LAUNCHERS:
        registered.pop(f"{name}.yaml", None)
    OmegaConf.register_new_resolver(
        "metarun.unique", lambda: secrets.token_hex(3), use_cache=True, replace=True
    )


def plain(node: DictConfig) -> dict[str, Any]:
    """Return a composed config as plain values with all interpolations resolved.

    Raises:
        ConfigError: an interpolation leads nowhere, or a mandatory value is missing.
    """
    try:
        values = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> dict[str, Any]:
    """Compose the config that these overrides stand for, without running anything.

    Args:
        overrides: as on the command line.
        config_dir: a user's own folder of groups, as in --config-dir.

    Raises:
        ConfigError: they do not make a config.
    """
    prepare_hydra()
    search = []
    if config_dir:
        quoted = str(Path(config_dir).absolute()).replace("'", r"\'")
        search = [f"hydra.searchpath=['file://{quoted}']"]
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return plain(compose("config", [*search, *overrides]))
    except (*COMPOSITION_ERRORS, ValueError) as error:  # ValueError: a group replaced by a plain value
        if isinstance(error, MetarunError):
            raise
        raise explain(error, overrides, config_dir) from error


def explain(error: Exception, overrides: Sequence[str], config_dir: str | None = None) -> ConfigError:
    """Return one of Hydra's errors as one line that says what would be right."""
    text = " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        return ConfigError(
            f"{group}={option}: there is no such option{did_you_mean(option, error.options)}; "
            f"choose from {', '.join(error.options)}"
        )
    if isinstance(error, OverrideParseException):
        return ConfigError(
            f"{error.override}: not of the form key=value; quote a value with special characters, "
            f"as in 'key=\"a b\"' or 'algo.adapts=\"!*.norm.*\"'"
        )
    unknown = re.match(r"Could not override '([^']+)'", text)
    if unknown:
        return _unknown_key(unknown[1], overrides, config_dir)
    if isinstance(error, ValueError):
        return ConfigError(f"{' '.join(overrides)}: {text}; a group takes one of its options: metarun list")
    return ConfigError(text)


def _unknown_key(key: str, overrides: Sequence[str], config_dir: str | None) -> ConfigError:
    """Let our own check, which knows what would be right, speak of a key that Hydra does not know."""
    others = []
    line = f"{key}=null"
    for each in OverridesParser.create().parse_overrides(list(overrides)):
        if each.key_or_group == key and not each.is_sweep_override():
            line = str(each.input_line)
        elif each.key_or_group != key and not each.is_sweep_override():
            others.append(str(each.input_line))
    try:
        read_config(compose_config([*others, f"+{line}"], config_dir))
    except ConfigError as error:
        return error
    return ConfigError(f"{line}: the config has no such key; type +{line} to add it")
