"""Command-line flags whose mistakes are one line, like every other mistake."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from metarun.errors import ConfigError


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse arguments, options and positionals in any order.

    Raises:
        ConfigError: they do not fit.
    """

    def complain(message: str) -> None:
        raise ConfigError(f"{message}; see {parser.prog} --help")

    parser.error = complain  # type: ignore[method-assign, assignment]
    return parser.parse_intermixed_args(arguments)
