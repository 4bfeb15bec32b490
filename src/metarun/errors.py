"""The errors that end a command with one line instead of a traceback."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


# What a role's argument is called on the command line, where the two differ: its group's key.
_GROUPS = {"learner": "algo", "rule": "inner", "loop": "inner", "source": "data"}
_ARGUMENT = re.compile(r"@(learner|rule|loop|model|source|metagradient|outer|engine|train)([.=])")
_IN_PYTHON = {"=null": "=None", "=true": "=True", "=false": "=False"}


class MetarunError(Exception):
    """Something a user can act on: what was given, what was expected, what would be right.

    Classes name arguments as `@rule.lr`, and options as `@rule=sgd`. A Python user reads them as `lr` and
    `rule=sgd`; what `with_keys` has passed on has the keys of the command line, `inner.lr` and `inner=sgd`.

    Args:
        problem: what is wrong.
        remedy: what to give instead.
    """

    exit_status = 1
    in_keys = False

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy

    def __str__(self) -> str:
        """Return the message in the words of whoever reads it."""
        verb = "type" if self.in_keys else "give"
        text = f"{self.problem}: {verb} {self.remedy}" if self.remedy else self.problem
        if self.in_keys:
            return _ARGUMENT.sub(lambda found: _GROUPS.get(found[1], found[1]) + found[2], text)
        plain = _ARGUMENT.sub(lambda found: "" if found[2] == "." else f"{found[1]}=", text)
        for typed, written in _IN_PYTHON.items() if plain != text else ():
            plain = re.sub(rf"{typed}\b", written, plain)
        return plain


@contextmanager
def with_keys() -> Iterator[None]:
    """Let errors of classes speak of the command line's keys from here on."""
    try:
        yield
    except MetarunError as error:
        error.in_keys = True
        raise


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
        self.args = (message, exit_status)  # what it is unpickled from
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
