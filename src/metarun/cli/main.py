"""The command line: a subcommand, or Hydra's overrides for a training."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from metarun.config.options import CONF, groups
from metarun.errors import ConfigError, Interrupted, MetarunError, did_you_mean, with_keys
from metarun.system.console import to_stderr

_LONGEST = 2000  # characters of an error's line

# The first line of a verb's module: how it is typed, and what it does.
_VERB = re.compile(r'"""`metarun (?P<name>[a-z]+)[^`]*`: (?P<does>.*)\."""')


@cache
def verbs() -> dict[str, str]:
    """Return what each verb does: a verb is a module of metarun.cli with `main(arguments)`.

    The modules are read, not imported: help needs none of what they import.
    """
    described = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        with path.open(encoding="utf-8") as file:
            if (verb := _VERB.match(file.readline())) and verb["name"] == path.stem:
                described[verb["name"]] = verb["does"]
    return described


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 wrong input, 128+n stopped."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    to_stderr()
    if str(Path.cwd()) not in sys.path:  # at the end: a user's own classes must not hide other modules
        sys.path.append(str(Path.cwd()))
    try:
        with with_keys():
            _command(words)(words)
    except MetarunError as error:
        return _complain(str(error), error.exit_status)
    except Interrupted as stop:
        return _complain(str(stop), stop.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, such as head or less, has ended
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f": {error.filename}" if error.filename else " on the standard output"
        return _complain(f"{error.strerror or error}{where}{_hint_for_another_folder(error)}", 1)
    return 0


def _command(words: list[str]) -> Callable[[list[str]], None]:
    """Return the function for the arguments; a bare first word is a verb."""
    word = words[0] if words else ""
    if word in verbs():
        return _verb(word)
    if word == "help" or {"--help", "-h"} & set(words):
        return _verb("help")
    if word == "--version":
        return _verb("version")
    if word and not word.startswith("-") and "=" not in word and word[0] not in "+~":
        override = next(
            (f"{g}={word}" for g, options in groups([CONF]).items() if word in [o.name for o in options]), ""
        )
        hint = f"; did you mean {override}?" if override else did_you_mean(word, verbs())
        raise ConfigError(
            f"{word}: there is no such command{hint}; choose from "
            f"{', '.join(verbs())}, or type key=value to train (metarun --help)"
        )
    return _verb("run")


def _verb(name: str) -> Callable[[list[str]], None]:
    main: Callable[[list[str]], None] = import_module(f"metarun.cli.{name}").main
    return main


def _hint_for_another_folder(error: OSError) -> str:
    """Return what to type if the folder cannot be written, else ""."""
    if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ""
    return "; type hydra.run.dir=FOLDER (for a sweep hydra.sweep.dir=FOLDER) to write somewhere else"


def _complain(message: str, status: int) -> int:
    line = " ".join(message.split())
    print(f"metarun: {line if len(line) <= _LONGEST else f'{line[:_LONGEST]} …'}", file=sys.stderr)
    return status
