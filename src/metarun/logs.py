"""The log on the console."""

from __future__ import annotations

import logging


def to_stderr(prefix: str = "") -> None:
    """Show metarun's log on the console.

    Args:
        prefix: of every line, in a process whose lines mix with those of others.
    """
    logger = logging.getLogger("metarun")
    for handler in [each for each in logger.handlers if type(each) is logging.StreamHandler]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{prefix.replace('%', '%%')}%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
