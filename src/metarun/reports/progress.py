"""Progress of a run: a bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("metarun")

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0


def describe(scores: Mapping[str, float]) -> str:
    """Return scores as a text for people, the loss under no second name."""
    shown = {name: value for name, value in scores.items() if name == "loss" or value != scores.get("loss")}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


_bars = True


def without_bars() -> None:
    """Show plain lines even on a terminal: several processes write to it."""
    global _bars  # noqa: PLW0603
    _bars = False


def _disable_bar() -> bool | None:
    """Return tqdm's `disable`: True in a quiet process, else None, which shows a bar on a terminal only."""
    return None if _bars and log.isEnabledFor(logging.INFO) else True


class _Console:
    """The console; a closed terminal does not end the run."""

    def write(self, text: str) -> None:
        """Write, if the terminal is still open."""
        with suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush, if the terminal is still open."""
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


class TrainingProgress:
    """The loss, speed and remaining time of a training."""

    def __init__(self, done: int, steps: int) -> None:
        self._bar = tqdm(
            total=steps,
            initial=done,
            unit=" steps",
            desc="training",
            file=_Console(),
            disable=_disable_bar(),
            smoothing=0.1,
        )
        self._redirect = logging_redirect_tqdm([log])
        self._first, self._steps = done, steps
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        """Keep log lines from breaking the bar."""
        self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the bar where it stands."""
        self._bar.close()
        self._redirect.__exit__(kind, error, trace)

    def step(self) -> None:
        """Count one meta-step."""
        self._bar.update()

    def scores(self, step: int, scores: Mapping[str, float]) -> None:
        """Show the scores of the latest meta-steps."""
        if not self._bar.disable:
            self._bar.set_postfix_str(describe(scores), refresh=False)
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (step - self._first) / (now - self._start)
            remaining = tqdm.format_interval((self._steps - step) / rate)
            log.info(
                "step %d/%d: %s; %.3g steps/s, %s left", step, self._steps, describe(scores), rate, remaining
            )


def chunks_bar(description: str, chunks: Iterable[Item], total: int) -> Iterator[Item]:
    """Wrap the chunks of an evaluation in a progress bar."""
    yield from tqdm(
        chunks,
        desc=description,
        total=total,
        unit=" chunks",
        file=_Console(),
        disable=_disable_bar(),
        leave=False,
    )


def items_bar(what: str, count: int | None) -> tqdm[NoReturn]:
    """Return a bar over so many items, to be updated; on a terminal only."""
    return tqdm(total=count, desc=what, unit="", file=_Console(), disable=_disable_bar(), leave=False)
