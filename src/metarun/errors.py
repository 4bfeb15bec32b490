"""The errors that end a command with one line instead of a traceback."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


def in_one_line(error: BaseException) -> str:
    """Return one line for an error of a user's class: type, message, and the file and line that raised it."""
    text = " ".join(str(error).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    frames = traceback.extract_tb(error.__traceback__)
    user_frames = [frame for frame in frames if not _LIBRARY.search(frame.filename)]
    where = f" ({Path(user_frames[-1].filename).name}, line {user_frames[-1].lineno})" if user_frames else ""
    return f"{type(error).__name__}: {text or 'no message'}{where}"


_LONGEST = 200
# Frames of metarun and of libraries do not help the author of a class.
_LIBRARY = re.compile(rf"/(site-packages|lib/python3\.\d+)/|^{re.escape(str(Path(__file__).parent))}/")


# Roles whose config group has another name on the command line: role → group.
_GROUPS = {"learner": "algo", "rule": "inner", "loop": "inner", "source": "data"}
_ARGUMENT = re.compile(r"(?<![\w.+-])@(learner|rule|loop|model|source|metagradient|outer|engine|train)([.=])")
_IN_PYTHON = {"=null": "=None", "=true": "=True", "=false": "=False"}


class MetarunError(Exception):
    """An error that a user can act on: it says what is wrong and what to give instead.

    Messages write arguments as `@rule.lr` and options as `@rule=sgd`. A Python user reads `lr` and
    `rule=sgd`; an error that has passed `with_keys` shows command-line keys, `inner.lr` and `inner=sgd`.

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
        """Return the message with command-line keys or with Python's argument names."""
        verb = "type" if self.in_keys else "give"
        text = f"{self.problem}: {verb} {self.remedy}" if self.remedy else self.problem
        if self.in_keys:
            return _ARGUMENT.sub(lambda match: _GROUPS.get(match[1], match[1]) + match[2], text)
        plain = _ARGUMENT.sub(lambda match: "" if match[2] == "." else f"{match[1]}=", text)
        for yaml_value, python_value in _IN_PYTHON.items() if plain != text else ():
            plain = re.sub(rf"{yaml_value}\b", python_value, plain)
        return plain


@contextmanager
def with_keys() -> Iterator[None]:
    """Show the command line's keys in every MetarunError that leaves this context."""
    try:
        yield
    except MetarunError as error:
        error.in_keys = True
        raise


class ConfigError(MetarunError, ValueError):
    """A wrong setting, reported before any work is done."""

    exit_status = 2


class OutOfTimeError(MetarunError):
    """The run has reached its time limit and is saved. The other jobs of a sweep go on."""

    exit_status = 124  # the status of coreutils' timeout


class DivergedError(MetarunError):
    """The loss or a parameter is NaN or infinite."""


class PrunedError(MetarunError):
    """The search that a run belongs to has pruned it; this is not a failure."""


class UnfinishedError(MetarunError):
    """A sweep has ended, but some of its jobs are not finished."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.args = (message, exit_status)  # unpickling calls __init__ with these
        self.exit_status = exit_status


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop; its work is saved.

    It is a KeyboardInterrupt, so that one interrupted job also ends its sweep.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_status = 128 + signal_number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[str, int]]:
        """Return what pickle rebuilds it from in another process."""
        return type(self), (str(self), self.signal_number)


def did_you_mean(given: str, choices: Iterable[str]) -> str:
    """Return `; did you mean …?` with the closest choice, or "" if none is close."""
    close = get_close_matches(given, list(choices), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""
