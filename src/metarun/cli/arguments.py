"""Command-line flags whose mistakes are one line, like every other mistake."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from metarun.config.options import check_config_dirs
from metarun.errors import ConfigError


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments, options and positionals in any order.

    Raises:
        ConfigError: they do not fit.
    """

    def complain(message: str) -> None:
        raise ConfigError(f"{message}; see {parser.prog} --help")

    parser.error = complain  # type: ignore[method-assign, assignment]
    given = parser.parse_intermixed_args(arguments)
    check_config_dirs(getattr(given, "config_dirs", ()))
    return given


def run_and_overrides(verb: str, description: str, open_keys: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a verb that tests a run: its directory, and the keys that a test may change."""
    parser = argparse.ArgumentParser(
        f"metarun {verb}",
        description=description,
        epilog=f"overrides of: {', '.join(open_keys)}; "
        "where every task starts from fresh parameters (algo=l2l) of model too",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run's directory, outputs/DATE/TIME")
    parser.add_argument("overrides", nargs="*", help="key=value, as in data.shot=5 inner.test_steps=10")
    add_config_dirs(parser)
    return parser


def add_config_dirs(parser: argparse.ArgumentParser) -> None:
    """Let a verb take a user's own folders of groups, as `config_dirs`."""
    parser.add_argument(
        "--config-dir",
        dest="config_dirs",
        metavar="FOLDER",
        action="append",
        default=[],
        help="a folder of your own groups and options; may be given again",
    )
