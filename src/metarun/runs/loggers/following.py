"""Hands over what a run logs to its loggers, each in a thread of its own so that none can stop the run."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarun.errors import in_one_line
from metarun.runs.loggers.logger import Ended, Logger, RunFacts
from metarun.system.files import as_json, write_text

log = logging.getLogger("metarun")

FILE = "loggers.json"
"""What loggers keep, in a run's directory."""

_LONGEST_QUEUE = 10_000  # records that a slow logger may be behind
_SECONDS_AT_END = 60.0  # a run waits for its loggers at its end, at most

Call = Callable[[], None]


class Loggers:
    """The loggers of a run.

    Scores are handed over from metrics.jsonl, which is the truth: a logger that is behind it, since the run
    was killed or since it was not there before, gets all that it has missed.

    Args:
        loggers: by name.
        run: the run, at the step that it begins or continues from.
    """

    def __init__(self, loggers: Mapping[str, Logger], run: RunFacts) -> None:
        kept = _read(run.directory / FILE)
        lock = threading.Lock()
        self._following = [_Following(name, each, run, kept, lock) for name, each in loggers.items()]

    @property
    def new(self) -> bool:
        """Whether some logger has not followed this run before."""
        return any(each.is_new for each in self._following)

    def __bool__(self) -> bool:
        """Return whether there are any that have not failed."""
        return any(not each.has_failed for each in self._following)

    def record(self, line: Mapping[str, Any], position: int) -> None:
        """Hand over a line of metrics.jsonl; position: the length of the file with it, in bytes."""
        for each in self._following:
            each.record(line, position)

    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Hand over values by name."""
        for each in self._following:
            each.put(lambda logger=each.logger: logger.histograms(step, values))  # type: ignore[misc]

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Hand over pictures [height, width, 3], to loggers that have not followed this run before."""
        for each in self._following:
            if each.is_new:
                each.put(lambda logger=each.logger: logger.pictures(step, pictures))  # type: ignore[misc]

    def flush(self) -> None:
        """Ask all to write what is still in memory, and note how far they are."""
        for each in self._following:
            each.flush()

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """End all of them; wait for them, up to a minute together."""
        for each in self._following:
            each.end(ended, scores)
        deadline = threading.Event()
        timer = threading.Timer(_SECONDS_AT_END, deadline.set)
        timer.daemon = True
        timer.start()
        for each in self._following:
            while each.is_busy and not deadline.is_set():
                each.wait(0.2)
            if each.is_busy:
                log.warning("logger.%s has not ended after %d s: left alone", each.name, _SECONDS_AT_END)
        timer.cancel()


class _Following:
    """A logger in its thread, and how far it is."""

    def __init__(
        self, name: str, logger: Logger, run: RunFacts, kept: dict[str, Any], lock: threading.Lock
    ) -> None:
        self.name, self.logger = name, logger
        self._all_kept, self._lock, self._run = kept, lock, run
        own = kept.get(name, {})
        self.is_new = not own
        self._own: dict[str, Any] = dict(own.get("own", {}))
        metrics = run.directory / "metrics.jsonl"
        length = metrics.stat().st_size if metrics.exists() else 0
        seen = int(own.get("position", 0))
        # What the run repeats has been seen, unless the logger forgets it.
        self._seen = min(seen, length) if logger.forgets else seen
        self._position = self._seen
        self.has_failed = False
        self._queue: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=f"logger.{name}", daemon=True)
        self.put(lambda: self._open(metrics, length))
        self._thread.start()

    def _open(self, metrics: Path, length: int) -> None:
        missed: list[dict[str, Any]] = []
        if self._seen < length:
            with metrics.open("rb") as file:
                missed = [json.loads(line) for line in file.read(length)[self._seen :].splitlines()]
        step = min([self._run.step, *(line["step"] - 1 for line in missed)])
        self._own = dict(self.logger.open(replace(self._run, step=step), self._own))
        for line in missed:
            self._scores(line)
        self._position = max(self._position, length)
        self._keep()

    def _work(self) -> None:
        try:
            for call in iter(self._queue.get, None):
                call()
        except Exception as error:  # whatever a library or a network raises: the run goes on without it
            why = in_one_line(error)[:300]
            log.warning("logger.%s has failed, and the run goes on without it: %s", self.name, why)
            self.has_failed = True  # last: the run waits for it

    def put(self, call: Call) -> None:
        """Have a call made after those before it."""
        if self.has_failed:
            return
        if self._queue.qsize() > _LONGEST_QUEUE:
            self.has_failed = True
            log.warning(
                "logger.%s is %d records behind, and the run goes on without it", self.name, _LONGEST_QUEUE
            )
            return
        self._queue.put(call)

    def record(self, line: Mapping[str, Any], position: int) -> None:
        """Hand over a line of metrics.jsonl, unless it has been seen."""

        def call() -> None:
            if position > self._seen:
                self._scores(line)
            self._position = max(self._position, position)

        self.put(call)

    def _scores(self, line: Mapping[str, Any]) -> None:
        split, step = line["split"], int(line["step"])
        time = datetime.fromisoformat(line["time"]).timestamp()
        numbers = {
            f"{split}/{name}": float(value)
            for name, value in line.items()
            if name != "step" and isinstance(value, int | float) and not isinstance(value, bool)
        }
        self.logger.scores(step, numbers, time)

    def flush(self) -> None:
        """Have it write what it has."""

        def call() -> None:
            self.logger.flush()
            self._keep()

        self.put(call)

    def end(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """Have it end after all that was handed over."""

        def call() -> None:
            self.logger.close(ended, scores)
            self._keep()

        self.put(call)
        self._queue.put(None)

    @property
    def is_busy(self) -> bool:
        """Whether it has something left to do."""
        return self._thread.is_alive() and not self.has_failed

    def wait(self, seconds: float) -> None:
        """Wait for its end."""
        self._thread.join(seconds)

    def _keep(self) -> None:
        with self._lock:
            self._all_kept[self.name] = {"position": self._position, "own": self._own}
            write_text(self._run.directory / FILE, as_json(self._all_kept, indent=2) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        content = None
    if not isinstance(content, dict) or not all(_is_kept(value) for value in content.values()):
        log.warning("%s is damaged: loggers begin anew", path)
        return {}
    return content


def _is_kept(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return isinstance(value.get("position"), int) and isinstance(value.get("own"), dict)
