"""`metarun list [group]`: what can be chosen, a line each."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.cli.arguments import add_config_dirs, parse
from metarun.config.options import CONF, groups
from metarun.errors import ConfigError, did_you_mean


def main(arguments: list[str]) -> None:
    """Print groups with their options, or one group's options with what they are.

    Raises:
        ConfigError: there is no such group, or no such folder.
    """
    parser = argparse.ArgumentParser("metarun list", description="Print what can be chosen, a line each.")
    parser.add_argument("group", nargs="?", help="one group: algo, model, data, …")
    add_config_dirs(parser)
    given = parse(parser, arguments[1:])
    found = groups([CONF, *(Path(folder) for folder in given.config_dirs)])
    if given.group and given.group not in found:
        raise ConfigError(
            f"{given.group}: there is no such group{did_you_mean(given.group, found)}; "
            f"choose from {', '.join(found)}"
        )
    for group in [given.group] if given.group else found:
        print(f"{group}=")
        width = max((len(option.name) for option in found[group]), default=0)
        for option in found[group]:
            print(f"  {option.name:<{width}}  {option.description}")
