"""The errors that end a command with one line instead of a traceback."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path


def in_one_line(error: BaseException) -> str:
    """Return what an error of somebody's own class says, and the file and line that it came from."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not _LIBRARY.search(each.filename)]
    where = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {text or 'without a word'}{where}"


_LONGEST = 200
# Frames of metarun and of what it stands on say nothing to the author of a class.
_LIBRARY = re.compile(rf"/(site-packages|lib/python3\.\d+)/|^{re.escape(str(Path(__file__).parent))}/")


class MetarunError(Exception):
    """Something a user can act on; the message says what was given, what was expected, what to type."""

    exit_status = 1


class ConfigError(MetarunError, ValueError):
    """A setting that cannot be right, found before any work is done."""

    exit_status = 2


class OutOfTimeError(MetarunError):
    """The run has used the time it was given; its work is saved. The other jobs of a sweep go on."""

    exit_status = 124  # as coreutils' timeout has it


class DivergedError(MetarunError):
    """The loss or a parameter is no longer a number."""


class PrunedError(MetarunError):
    """The search that a run belongs to has given it up; it is no failure."""


class UnfinishedError(MetarunError):
    """A sweep has come to its end, and some of its jobs have not."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its work is saved.

    A KeyboardInterrupt, so that one interrupted job also ends the sweep it belongs to.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """Return `; did you mean …?` with the closest choice, or nothing where none is close."""
    close = get_close_matches(given, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
