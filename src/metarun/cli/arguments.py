"""Parsing of command-line flags, with errors of one line like all others."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from metarun.config.options import check_config_dirs
from metarun.errors import ConfigError


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments; flags and positionals may be mixed.

    Raises:
        ConfigError: the parser does not accept the arguments, or a --config-dir is not a folder.
    """

    def complain(message: str) -> None:
        raise ConfigError(f"{message}; see {parser.prog} --help")

    parser.error = complain  # type: ignore[method-assign, assignment]
    options = parser.parse_intermixed_args(arguments)
    check_config_dirs(getattr(options, "config_dirs", ()))
    return options


def run_and_overrides(verb: str, description: str, open_keys: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a verb that tests a run: it takes the directory and overrides of `open_keys`."""
    parser = argparse.ArgumentParser(
        f"metarun {verb}",
        description=description,
        epilog=f"overrides may set: {', '.join(open_keys)}; "
        "also model, if every task starts from fresh parameters (algo=l2l)",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in data.shot=5 inner.test_steps=10")
    add_config_dirs(parser)
    return parser


def learner_parser(
    verb: str, description: str, open_keys: Sequence[str], example: str, *, adapted: bool = True
) -> argparse.ArgumentParser:
    """Return the parser of a verb that uses a learner: it takes a run, and overrides of `open_keys`.

    Args:
        verb: its name.
        description: what it does.
        open_keys: the keys that overrides may set.
        example: an override.
        adapted: whether a file of `metarun adapt` may stand in the place of the run.
    """
    parser = argparse.ArgumentParser(
        f"metarun {verb}",
        description=description,
        epilog=f"overrides may set: {', '.join(open_keys)}",
        allow_abbrev=False,
    )
    if adapted:
        metavar, told = "RUN|MODEL", "the run's directory, or a file of metarun adapt"
    else:
        metavar, told = "RUN", "the run's directory, outputs/DATE/TIME"
    parser.add_argument("run", metavar=metavar, type=Path, help=told)
    parser.add_argument("overrides", nargs="*", help=f"key=value, as in {example}")
    return parser


def check_out(flag: str, path: Path) -> None:
    """Raise ConfigError if a file cannot be written there, before there is anything to write."""
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"{flag} {path}: expected a file in an existing folder")


def add_config_dirs(parser: argparse.ArgumentParser) -> None:
    """Add the flag --config-dir for a user's own folders of groups, parsed as `config_dirs`."""
    parser.add_argument(
        "--config-dir",
        dest="config_dirs",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a folder of your own groups and options; may be repeated",
    )
