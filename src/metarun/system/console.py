"""The log on the console."""

from __future__ import annotations

import codecs
import io
import logging
import os
import sys

_IN_ASCII = str.maketrans(
    {"±": "+-", "–": "-", "…": "...", "→": "->", "×": "x", "·": "*", "’": "'", "‖": "||"}
)


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write what a console has no signs for in signs that all of them have."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "backslashreplace"), error.end


codecs.register_error("metarun.plainly", _plainly)


def to_stderr(prefix: str = "") -> None:
    """Show metarun's log on the console, and let nothing that is printed fail for its signs.

    Args:
        prefix: of every line, in a process whose lines mix with those of others.
    """
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="metarun.plainly")
    logger = logging.getLogger("metarun")
    for handler in [each for each in logger.handlers if type(each) is logging.StreamHandler]:
        logger.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{prefix.replace('%', '%%')}%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _open_what_is_closed() -> None:
    """Give a process without stdin, stdout or stderr one that leads nowhere.

    The next file that is opened, a checkpoint perhaps, would have its number, and what is printed in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
