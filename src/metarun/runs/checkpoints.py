"""The checkpoints of a run: the last, some before it, and the best; each whole and checked, or not used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from metarun.errors import MetarunError
from metarun.system.files import DamagedFileError, UnsealedFileError, read_tensors, write_tensors

FORMAT = 3
"""Raised whenever an older metarun could not read what this one writes; `_migrate` knows the older ones."""

log = logging.getLogger("metarun")


class Checkpoints:
    """Writes and reads `last.pt`, the ones before it as `step-N.pt`, and `best.pt`.

    Each file holds tensors and plain values only, under a checksum, and appears whole or not at all.

    Args:
        folder: where they are; made when the first is written.
        identity: says which run they are of, so that one of another is not taken for its own.
    """

    def __init__(self, folder: Path, identity: Callable[[], str] = lambda: "") -> None:
        self.folder, self._identity = folder, identity
        self._last, self._best = folder / "last.pt", folder / "best.pt"
        # The best that the last checkpoint knows of, where there has been a better one since.
        self._best_before = folder / "best-before.pt"
        self._last_step: int | None = None
        self._tried: set[str] = set()

    def save(self, state: Mapping[str, Any], keep: int) -> None:
        """Write the last checkpoint, and keep so many of those before it.

        Args:
            state: tensors and plain values; "step" is the number of meta-steps taken.
            keep: how many older ones stay.

        Raises:
            MetarunError: it holds something that could not be read again.
            OSError: it cannot be written; those that were there still are.
        """
        step = int(state["step"])
        waiting = self.folder / ".next.pt"
        self._write(waiting, state)
        # Killed between the two renames, the run goes on from the one that has just been put aside.
        if keep and self._last_step not in (None, step) and self._last.exists():
            self._last.replace(self._step_file(self._last_step))
        waiting.replace(self._last)
        self._last_step = step
        self._best_before.unlink(missing_ok=True)
        for _, path in list(self._older())[keep:]:
            path.unlink()

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the best checkpoint; the one that the last checkpoint knows of stays until the next."""
        if self._best.exists() and not self._best_before.exists():
            self._best.replace(self._best_before)
        self._write(self._best, state)

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        write_tensors(path, {"format": FORMAT, "run": self._identity(), **state})
        if path.name in self._tried:
            return
        try:  # once: a user's class may keep something that torch writes and, rightly, does not read
            read_tensors(path)
        except DamagedFileError as error:
            path.unlink()
            raise MetarunError(
                f"the run cannot be saved so that it could be resumed: the state of the learner or the outer "
                f"optimizer holds something besides tensors and plain values ({_first_line(error.__cause__)})"
            ) from error
        self._tried.add(path.name)

    def newest(self, *, take_over: bool = False) -> dict[str, Any] | None:
        """Return the newest good checkpoint, with its tensors on the CPU, or None where there is none.

        Args:
            take_over: go on from it: damaged ones are renamed, and so are those of later steps, which this
                process is going to take again.

        Raises:
            MetarunError: all are damaged, or one is of a format that this version does not read.
        """
        damaged: dict[Path, DamagedFileError] = {}
        candidates = [self._last] if self._last.exists() else []
        for path in [*candidates, *(path for _, path in self._older())]:
            try:
                state = self._read(path, _NEEDED)
            except DamagedFileError as error:
                damaged[path] = error
                continue
            for each in damaged.values():
                log.warning("%s; the one of step %d is used instead", each, state["step"])
            self._last_step = state["step"] if path == self._last else None
            if take_over:
                for bad in damaged:
                    bad.replace(bad.with_name(f"{bad.name}.damaged"))
                for step, later in self._older():
                    if step > state["step"]:
                        later.replace(later.with_name(f"{later.name}.later"))
            return state
        if damaged:
            raise MetarunError(
                f"{next(iter(damaged.values()))}, and no other checkpoint is good: restore one from a copy, "
                f"or delete {self.folder} and metrics.jsonl beside it to start again from step 0"
            )
        return None

    def best(self, step: int | None = None) -> dict[str, Any] | None:
        """Return the best checkpoint, or None, with a warning, where it is not there or damaged.

        Args:
            step: which it should be of; of another the same is said.

        Raises:
            MetarunError: it is of a format that this version does not read.
        """
        problems = []
        for path in (self._best, self._best_before):
            try:
                state = self._read(path, {"step", "learner"})
            except FileNotFoundError:
                problems.append(f"{path} is gone")
            except DamagedFileError as error:
                problems.append(str(error))
            else:
                if step in (None, state["step"]):
                    if step is not None and path == self._best_before:
                        path.replace(self._best)
                    return state
                problems.append(f"{path} is of step {state['step']}, the best validation was at {step}")
        log.warning("%s: it is not used", problems[0])
        return None

    def exist(self) -> bool:
        """Say whether there is any to go on from."""
        return self._last.exists() or next(self._older(), None) is not None

    def tidy(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for leftover in self.folder.glob(".*.pt*"):
            leftover.unlink()

    def _step_file(self, step: int | None) -> Path:
        return self.folder / f"step-{step}.pt"

    def _older(self) -> Iterator[tuple[int, Path]]:
        """Yield the checkpoints before the last with their steps, the newest first."""
        found = [(path.stem.removeprefix("step-"), path) for path in self.folder.glob("step-*.pt")]
        yield from sorted(
            ((int(step), path) for step, path in found if step.isascii() and step.isdecimal()), reverse=True
        )

    def _read(self, path: Path, needed: set[str]) -> dict[str, Any]:
        """Read a checkpoint, of this format or migrated to it.

        Raises:
            DamagedFileError: it is damaged, of another run, or something else.
            MetarunError: it is of a newer format.
        """
        try:
            state = read_tensors(path)
        except UnsealedFileError:
            state = read_tensors(path, sealed=False)
            # The first format is the only one without checksums.
            if state.get("format") != 1 or not {"step", "learner"} <= state.keys():
                raise
        written = state.get("format")
        if not isinstance(written, int) or not 1 <= written <= FORMAT:
            raise MetarunError(
                f"{path} has checkpoint format {written}, this metarun reads 1 to {FORMAT}: use the version "
                f"that wrote it, see manifest.json in {self.folder.parent}"
            )
        state = _migrate(state)
        if not needed <= state.keys():
            raise DamagedFileError(f"{path} is no checkpoint of this kind")
        if state.get("run", self._identity()) != self._identity():
            raise DamagedFileError(f"{path} is of a run with another config")
        return state


_NEEDED = {"step", "learner", "outer", "meter", "metrics_bytes", "selection"}


def _first_line(error: BaseException | None) -> str:
    lines = [line for line in str(error).splitlines() if "nsupported" in line or "GLOBAL" in line]
    return (lines or str(error).splitlines() or [""])[0].strip()


def _migrate(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of an older format as one of this."""
    if state["format"] == 1:  # before early stopping, skipped steps, and a change of device
        added = (
            {"stale": 0, "quality": -inf, "skipped": {"all": 0, "in_a_row": 0}, "device": "cpu"}
            if "outer" in state
            else {}
        )
        state = {**state, **added, "format": 2}
    if state["format"] == 2:  # what selects the best learner had other names, and no key of its own
        state = {**state, "format": 3}
        best = state.get("best")
        named = best is None or (isinstance(best, dict) and {"step", "quality"} <= best.keys())
        if named and {"best", "stale", "quality"} <= state.keys():
            best, stale, quality = (state.pop(key) for key in ("best", "stale", "quality"))
            state["selection"] = {
                "best": best and {"step": best["step"], "selection_score": best["quality"]},
                "selection_score": quality,
                "validations_since_best": stale,
            }
    return state
