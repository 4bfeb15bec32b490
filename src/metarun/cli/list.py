"""`metarun list [group]`: print the groups and their options."""

from __future__ import annotations

import argparse
from pathlib import Path

from metarun.cli.arguments import add_config_dirs, parse
from metarun.config.options import CONF, groups
from metarun.errors import ConfigError, did_you_mean


def main(arguments: list[str]) -> None:
    """Print the options of all groups, or of one group, with their descriptions.

    Raises:
        ConfigError: there is no such group, or no such folder.
    """
    parser = argparse.ArgumentParser("metarun list", description="Print the options, one per line.")
    parser.add_argument("group", nargs="?", help="one group: algo, model, data, …")
    add_config_dirs(parser)
    options = parse(parser, arguments[1:])
    by_group = groups([CONF, *(Path(folder) for folder in options.config_dirs)])
    chosen = options.group
    if chosen and chosen not in by_group:
        raise ConfigError(
            f"{chosen}: there is no such group{did_you_mean(chosen, by_group)}; "
            f"choose from {', '.join(by_group)}"
        )
    for group in [chosen] if chosen else by_group:
        print(f"{group}=")
        width = max((len(option.name) for option in by_group[group]), default=0)
        for option in by_group[group]:
            print(f"  {option.name:<{width}}  {option.description}")
