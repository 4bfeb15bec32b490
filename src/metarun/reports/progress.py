"""Progress of a run: a bar on a terminal, plain lines at intervals elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

log = logging.getLogger("metarun")

Item = TypeVar("Item")

_SECONDS_BETWEEN_LINES = 10.0


def describe(scores: Mapping[str, float]) -> str:
    """Return scores as a text for people, without metrics that are the loss under another name."""
    shown = {name: value for name, value in scores.items() if name == "loss" or value != scores.get("loss")}
    return ", ".join(f"{name} {value:.4g}" for name, value in shown.items())


_bars = True


def without_bars() -> None:
    """Show plain lines even on a terminal: several processes write to it."""
    global _bars  # noqa: PLW0603
    _bars = False


_leave_bars = True


def _leave_job_bars(*, leave: bool) -> None:
    """Say whether the bar of a training stays on the terminal at its end."""
    global _leave_bars  # noqa: PLW0603
    _leave_bars = leave


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


_PARTS = "{desc}: {percentage:3.0f}%|{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class TrainingProgress:
    """The meta-step, scores after adaptation, the best validation, tasks per second and the remaining time.

    Args:
        done: meta-steps taken before.
        steps: of the whole training.
        meta_batch: tasks of a meta-step.
    """

    def __init__(self, done: int, steps: int, meta_batch: int) -> None:
        self._bar = tqdm(
            total=steps,
            initial=done,
            desc="training",
            file=_Console(),
            disable=_disable_bar(),
            smoothing=0.1,
            bar_format=_PARTS,
            leave=_leave_bars,
        )
        self._redirect = logging_redirect_tqdm([log])
        self._first, self._steps, self._meta_batch = done, steps, meta_batch
        self._start = self._last_line = time.monotonic()
        self._shown: list[str] = []

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
        if not self._bar.disable:
            rate = self._bar.format_dict["rate"]
            speed = [f"{rate * self._meta_batch:,.0f} tasks/s"] if rate else []
            self._bar.set_postfix_str(", ".join([*self._shown, *speed]), refresh=False)
        self._bar.update()

    def scores(self, step: int, scores: Mapping[str, float], best: Mapping[str, float]) -> None:
        """Show the scores of the latest meta-steps, and the best validation so far; {}: there is none."""
        texts = [describe(scores), *([f"best validation {describe(best)}"] if best else [])]
        if not self._bar.disable:
            self._shown = texts
            return
        now = time.monotonic()
        if now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = (step - self._first) / (now - self._start)
            remaining = tqdm.format_interval((self._steps - step) / rate)
            speed = f"{rate * self._meta_batch:,.0f} tasks/s"
            log.info(
                "step %d/%d: %s; %.3g steps/s, %s, %s left",
                *(step, self._steps, "; ".join(texts), rate, speed, remaining),
            )


class SweepProgress:
    """One bar over the jobs of a sweep, whichever launcher runs them, above that of a job.

    Args:
        total: number of jobs.
        count: returns how many have ended, and how many of these have failed; called in a thread.
    """

    def __init__(self, total: int, count: Callable[[], tuple[int, int]]) -> None:
        self._bar = tqdm(
            total=total, desc="jobs", file=_Console(), disable=_disable_bar(), bar_format=_PARTS, unit=" jobs"
        )
        self._count = count
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sweep progress", daemon=True)

    def __enter__(self) -> SweepProgress:
        """Begin to watch, on a terminal only."""
        if not self._bar.disable:
            _leave_job_bars(leave=False)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Show how many have ended, and leave the bar."""
        if not self._bar.disable:
            self._ended.set()
            self._thread.join()
            self._show()
            _leave_job_bars(leave=True)
        self._bar.close()

    def _watch(self) -> None:
        pause = 1.0
        while not self._ended.wait(pause):
            start = time.monotonic()
            self._show()
            pause = max(1.0, 20 * (time.monotonic() - start))  # ten thousand folders are checked less often

    def _show(self) -> None:
        done, failed = self._count()
        self._bar.n = done
        self._bar.set_postfix_str(f"{failed} failed" if failed else "", refresh=False)
        self._bar.refresh()


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
    """Return a bar over `count` items (None: not known), to be updated; it is shown on a terminal only."""
    return tqdm(total=count, desc=what, unit="", file=_Console(), disable=_disable_bar(), leave=False)
