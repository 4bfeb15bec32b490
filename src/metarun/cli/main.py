"""The command line: a subcommand, or Hydra's overrides for a training."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from metarun.config.options import CONF, groups
from metarun.errors import ConfigError, Interrupted, MetarunError, did_you_mean, with_keys
from metarun.system.console import to_stderr

# One verb a module of metarun.cli, imported when it is typed; each has `main(arguments)`.
COMMANDS = {
    "resume": "continue a stopped run, or a sweep, where it was",
    "eval": "test a run's best checkpoint again, under other conditions",
    "optimizers": "compare a run's update rule with tuned SGD, momentum, RMSProp and Adam",
    "continual": "let a run's learner meet task after task, and test it on what came before",
    "diff": "print what differs between two runs",
    "list": "print what can be chosen",
    "bench": "time this machine against other ways to the same meta-gradient",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 wrong input, 128+n stopped."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    to_stderr()
    if str(Path.cwd()) not in sys.path:  # where a user's own classes are looked for, after everything else
        sys.path.append(str(Path.cwd()))
    try:
        with with_keys():
            _command(given)(given)
    except MetarunError as error:
        return _complain(str(error), error.exit_status)
    except Interrupted as stop:
        return _complain(str(stop), stop.exit_status)
    except KeyboardInterrupt:
        return _complain("interrupted", 128 + signal.SIGINT)
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # the reader of a pipe, head or less, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        where = f": {error.filename}" if error.filename else " behind the standard output"
        return _complain(f"{error.strerror or error}{where}{_elsewhere(error)}", 1)
    return 0


def _command(given: list[str]) -> Callable[[list[str]], None]:
    """Return what the arguments ask for; a bare first word is a subcommand."""
    word = given[0] if given else ""
    if word in COMMANDS:
        return _verb(word)
    if word == "help" or {"--help", "-h"} & set(given):
        return _verb("help")
    if word == "--version":
        return _verb("version")
    if word and not word.startswith("-") and "=" not in word and word[0] not in "+~":
        meant = next(
            (f"{g}={word}" for g, each in groups([CONF]).items() if word in [o.name for o in each]), ""
        )
        hint = f"; did you mean {meant}?" if meant else did_you_mean(word, COMMANDS)
        raise ConfigError(
            f"{word}: there is no such command{hint}; choose from "
            f"{', '.join(COMMANDS)}, or type key=value to train (metarun --help)"
        )
    return _verb("run")


def _verb(name: str) -> Callable[[list[str]], None]:
    main: Callable[[list[str]], None] = import_module(f"metarun.cli.{name}").main
    return main


def _elsewhere(error: OSError) -> str:
    """Say what to type where a folder cannot be written."""
    if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ""
    return "; type hydra.run.dir=FOLDER, of a sweep hydra.sweep.dir=FOLDER, to write somewhere else"


def _complain(message: str, status: int) -> int:
    print(f"metarun: {' '.join(message.split())}", file=sys.stderr)
    return status
