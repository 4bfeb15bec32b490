"""The state and the scores of a run, read from the files in its directory without torch."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

State = Literal["finished", "running", "interrupted", "failed", "damaged"]

STAMPED = ("config.yaml", "manifest.json", "inputs.json", "metrics.jsonl", "results.json", "error.txt")
"""Files that a summary is made of."""

_STEPS = re.compile(r"^train:\n(?:  .*\n)*?  steps: (\d+)$", re.MULTILINE)
_TARGETS = re.compile(r"^(algo|data):\n(?:  .*\n)*?  _target_: \S*?(\w+)$", re.MULTILINE)
_LOSS = {"name": "loss", "higher_is_better": False, "percent": False}
# Ten times as fast where PyYAML has been built with it.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MOST_BYTES = 64 * 2**20  # of a file


@dataclass(frozen=True)
class Summary:
    """A run in a line.

    Attributes:
        path: of its directory.
        state: `running`: a process holds its lock; `interrupted`: it can be resumed.
        choices: the option of each group; of older runs, those that were typed.
        seed: of the run; None: it is not known.
        step: the last one that was logged.
        steps: of the whole training.
        metric: the score that selects its best learner: name, higher_is_better, percent.
        last: this score at the latest validation, or in training before the first.
        best: the best of its validations.
        test: mean and half-width of the 95 % interval of the test's final score.
        changed: when a file of it last changed, in seconds since 1970.
        error: in one line; empty: none.
    """

    path: str
    state: State
    choices: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    step: int = 0
    steps: int | None = None
    metric: Mapping[str, Any] = field(default_factory=lambda: _LOSS)
    last: float | None = None
    best: float | None = None
    test: tuple[float, float] | None = None
    changed: float = 0.0
    error: str = ""

    def plain(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Summary:
        """Return the summary of which `plain` gave these values."""
        test = plain["test"]
        return cls(**{**plain, "test": None if test is None else tuple(test)})


def summary(directory: Path, changed: float) -> Summary:
    """Return the summary of a run, except whether it is running: see `is_held`.

    Args:
        directory: of the run.
        changed: when a file of it last changed.
    """
    try:
        return _read(directory, changed)
    except _DamagedError as error:
        return Summary(str(directory), "damaged", changed=changed, error=str(error))


class _DamagedError(Exception):
    """A file holds something else than metarun writes."""


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Name the file in any error that its content leads to: the list of other runs is not lost by it."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise _DamagedError(f"{name} holds something else than metarun writes ({line[:200]})") from error


def _read(directory: Path, changed: float) -> Summary:
    with _reading("config.yaml"):
        config = _text(directory / "config.yaml")
        steps = _STEPS.search(config)
    with _reading("manifest.json"):
        manifest = json.loads(_text(directory / "manifest.json"))
        choices = manifest.get("choices") or _typed(manifest.get("command", ""), config)
        chosen = {str(group): str(option) for group, option in choices.items()}
        seed = manifest.get("seed")
    with _reading("results.json"):
        results = _json(directory / "results.json") or {}
        metric = _selecting(results.get("measures"))
        final = (results.get("final") or {}).get(metric["name"])
        test = None if final is None else (_number(final["mean"]), _number(final["ci95"]))
    with _reading("inputs.json"):
        if not results:
            metric = _selecting((_json(directory / "inputs.json") or {}).get("measures"))
    with _reading("metrics.jsonl"):
        step, last, best = _progress(_text(directory / "metrics.jsonl", missing=""), metric)
    with _reading("error.txt"):
        error = _text(directory / "error.txt", missing="").partition("\n")[0]
    state: State = "finished" if results else "failed" if error else "interrupted"
    return Summary(
        str(directory),
        state,
        chosen,
        seed if isinstance(seed, int) else None,
        step,
        int(steps[1]) if steps else None,
        metric,
        last,
        best,
        test,
        changed,
        error,
    )


def config_of(directory: Path) -> dict[str, Any]:
    """Return a run's config, read without torch; empty where the file is damaged."""
    try:
        content = yaml.load(_text(directory / "config.yaml"), _LOADER)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(path: Path, missing: str | None = None) -> str:
    """Return a file's text; of one that is not there, `missing`.

    Raises:
        OSError: it cannot be read, or is not there and `missing` is None.
        ValueError: it is no file, not in UTF-8, or larger than any such file of metarun.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for another process
            raise ValueError("it is no file")
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise ValueError(f"it is larger than {_MOST_BYTES // 2**20} MiB")
            return file.read()
    except FileNotFoundError:
        if missing is None:
            raise
        return missing


def _json(path: Path) -> dict[str, Any] | None:
    text = _text(path, missing="")
    content: dict[str, Any] | None = json.loads(text) if text else None
    return content


def _typed(command: str, config: str) -> dict[str, str]:
    """Return the options in a command; without one for algorithm or data, the name of its class."""
    chosen = {group: name.lower() for group, name in _TARGETS.findall(config)}
    words = (word.partition("=") for word in shlex.split(command))
    return chosen | {key.lstrip("+"): value for key, sep, value in words if sep and "." not in key}


def _selecting(measures: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the measure that selects the best learner: the first metric that does, or else the loss."""
    if not measures:
        return _LOSS
    chosen = next((m for m in measures[1:] if m.get("selects", True)), measures[0])
    return {key: chosen[key] for key in ("name", "higher_is_better", "percent")}


def _progress(lines: str, metric: Mapping[str, Any]) -> tuple[int, float | None, float | None]:
    """Return the last step, and the last and the best score, of metrics.jsonl."""
    step, trained, validated = 0, None, list[float]()
    for line in lines.splitlines():
        if not line.endswith("}"):  # it is being written
            break
        record = json.loads(line)
        step = max(step, record["step"])
        value = record.get(metric["name"])
        if record["split"] == "validation" and value is not None:
            validated.append(value)
        elif value is not None:
            trained = value
    best = (max if metric["higher_is_better"] else min)(validated, default=None)
    return step, validated[-1] if validated else trained, best


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of a run or a sweep, also on another machine.

    The lock is tried, and given back at once; `held` waits longer than this takes.
    """
    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    except OSError:  # on a file system without flock the existence of the file is the lock
        return True
    finally:
        os.close(descriptor)
