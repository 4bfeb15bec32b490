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
    """Replace characters that a console cannot show by ASCII."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_IN_ASCII)
    return text.encode("ascii", "backslashreplace"), error.end


codecs.register_error("metarun.plainly", _plainly)


def printable(text: str) -> str:
    """Return a text from a file without what would move the cursor or change the colours of a terminal."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def to_stderr(prefix: str = "") -> None:
    """Show metarun's log on the console; replace characters that its encoding lacks.

    Args:
        prefix: printed before every line, to mark the process where several share a console.
    """
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="metarun.plainly")
    logger = logging.getLogger("metarun")
    for console_handler in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        logger.removeHandler(console_handler)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{prefix.replace('%', '%%')}%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _open_closed_streams() -> None:
    """Open the null device as stdin, stdout or stderr where one of them is closed.

    Otherwise the next opened file, perhaps a checkpoint, would get its number and receive printed text.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
