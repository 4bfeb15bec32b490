"""The checkpoints of a run: the last, some before it, and the best; a damaged one is never used."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any

from metarun.errors import MetarunError
from metarun.system.tensor_files import DamagedFileError, UnsealedFileError, read_tensors, write_tensors

FORMAT = 3
"""Increased whenever an older metarun could not read the new checkpoints; `_migrate` converts older ones."""

log = logging.getLogger("metarun")


class Checkpoints:
    """Writes and reads `last.pt`, the checkpoints before it as `step-N.pt`, and `best.pt`.

    Each file holds only tensors and plain values, has a checksum, and is written atomically.

    Args:
        folder: of the checkpoints; created with the first one.
        identity: returns a digest of the run, so that a checkpoint of another run is refused.
    """

    def __init__(self, folder: Path, identity: Callable[[], str] = lambda: "") -> None:
        self.folder, self._identity = folder, identity
        self._last, self._best = folder / "last.pt", folder / "best.pt"
        # The best checkpoint when last.pt was written, kept if a better one has been written since.
        self._best_before = folder / "best-before.pt"
        self._last_step: int | None = None
        self._tried: set[str] = set()

    def save(self, state: Mapping[str, Any], keep: int) -> None:
        """Write the last checkpoint, and keep `keep` older ones.

        Args:
            state: tensors and plain values; "step" is the number of meta-steps taken.
            keep: the number of older checkpoints to keep.

        Raises:
            MetarunError: the state holds something that could not be read again.
            OSError: the file cannot be written; the checkpoints before it are unchanged.
        """
        step = int(state["step"])
        waiting = self.folder / ".next.pt"
        self._write(waiting, state)
        # If the process is killed between the two renames, the run resumes from the step-N.pt made here.
        if keep and self._last_step not in (None, step) and self._last.exists():
            self._last.replace(self._step_file(self._last_step))
        waiting.replace(self._last)
        self._last_step = step
        self._best_before.unlink(missing_ok=True)
        for _, path in list(self._older())[keep:]:
            path.unlink()

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the best checkpoint; keep the one that last.pt refers to until the next last.pt."""
        if self._best.exists() and not self._best_before.exists():
            self._best.replace(self._best_before)
        self._write(self._best, state)

    def _write(self, path: Path, state: Mapping[str, Any]) -> None:
        write_tensors(path, {"format": FORMAT, "run": self._identity(), **state})
        if path.name in self._tried:
            return
        try:  # once: a user's class may hold objects that torch saves but refuses to load (weights_only)
            read_tensors(path)
        except DamagedFileError as error:
            path.unlink()
            raise MetarunError(
                f"the run's checkpoints could not be read again: the state of the learner or the outer "
                f"optimizer holds something besides tensors and plain values ({_first_line(error.__cause__)})"
            ) from error
        self._tried.add(path.name)

    def newest(self, *, take_over: bool = False) -> dict[str, Any] | None:
        """Return the newest undamaged checkpoint, with its tensors on the CPU, or None if there is none.

        Args:
            take_over: whether this process continues from it. Then damaged checkpoints are renamed, and also
                those of later steps, which will be computed again.

        Raises:
            MetarunError: all are damaged, or one has a format that this version does not read.
        """
        damaged: dict[Path, DamagedFileError] = {}
        candidates = [self._last] if self._last.exists() else []
        for path in [*candidates, *(path for _, path in self._older())]:
            try:
                state = self._read(path, _NEEDED)
            except DamagedFileError as error:
                damaged[path] = error
                continue
            for problem in damaged.values():
                log.warning("%s; the one of step %d is used instead", problem, state["step"])
            self._last_step = state["step"] if path == self._last else None
            if take_over:
                for damaged_path in damaged:
                    damaged_path.replace(damaged_path.with_name(f"{damaged_path.name}.damaged"))
                for step, later in self._older():
                    if step > state["step"]:
                        later.replace(later.with_name(f"{later.name}.later"))
            return state
        if damaged:
            raise MetarunError(
                f"{next(iter(damaged.values()))}, and no other checkpoint is good: restore one from a copy, "
                f"or delete {self.folder} and the metrics.jsonl beside it to start again from step 0"
            )
        return None

    def best(self, step: int | None = None) -> dict[str, Any] | None:
        """Return the best checkpoint, or warn and return None if it is missing, damaged or of another step.

        Args:
            step: the meta-step that it should be of; None accepts any.

        Raises:
            MetarunError: it has a format that this version does not read.
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
                problems.append(f"{path} is of step {state['step']}, the best validation was at step {step}")
        log.warning("%s: it is not used", problems[0])
        return None

    def exist(self) -> bool:
        """Return whether there is a checkpoint to resume from."""
        return self._last.exists() or next(self._older(), None) is not None

    def tidy(self) -> None:
        """Remove temporary files left by a process that was killed while writing."""
        for leftover in self.folder.glob(".*.pt*"):
            leftover.unlink()

    def _step_file(self, step: int | None) -> Path:
        return self.folder / f"step-{step}.pt"

    def _older(self) -> Iterator[tuple[int, Path]]:
        """Yield (step, path) of the checkpoints before the last, newest first."""
        files = [(path.stem.removeprefix("step-"), path) for path in self.folder.glob("step-*.pt")]
        yield from sorted(
            ((int(step), path) for step, path in files if step.isascii() and step.isdecimal()), reverse=True
        )

    def _read(self, path: Path, needed: set[str]) -> dict[str, Any]:
        """Read a checkpoint, and migrate it if its format is older.

        Raises:
            DamagedFileError: the file is damaged, of another run, or not a checkpoint.
            MetarunError: it has a newer format.
        """
        try:
            state = read_tensors(path)
        except UnsealedFileError:
            state = read_tensors(path, sealed=False)
            # Only the first format has no checksums.
            if state.get("format") != 1 or not {"step", "learner"} <= state.keys():
                raise
        written = state.get("format")
        if not isinstance(written, int) or not 1 <= written <= FORMAT:
            raise MetarunError(
                f"{path} has checkpoint format {written}, this metarun reads 1 to {FORMAT}: use the version "
                f"that wrote it (manifest.json in {self.folder.parent} names it)"
            )
        state = _migrate(state)
        if not needed <= state.keys():
            raise DamagedFileError(f"{path} is not a checkpoint of this kind")
        if state.get("run", self._identity()) != self._identity():
            raise DamagedFileError(f"{path} belongs to a run with another config")
        return state


_NEEDED = {"step", "learner", "outer", "meter", "metrics_bytes", "selection"}


def _first_line(error: BaseException | None) -> str:
    lines = [line for line in str(error).splitlines() if "nsupported" in line or "GLOBAL" in line]
    return (lines or str(error).splitlines() or [""])[0].strip()


def _migrate(state: dict[str, Any]) -> dict[str, Any]:
    """Convert a checkpoint of an older format to the present one."""
    if state["format"] == 1:  # before early stopping, skipped steps, and a change of device
        added = (
            {"stale": 0, "quality": -inf, "skipped": {"all": 0, "in_a_row": 0}, "device": "cpu"}
            if "outer" in state
            else {}
        )
        state = {**state, **added, "format": 2}
    if state["format"] == 2:  # the selection of the best learner had other key names at the top level
        state = {**state, "format": 3}
        best = state.get("best")
        is_complete = best is None or (isinstance(best, dict) and {"step", "quality"} <= best.keys())
        if is_complete and {"best", "stale", "quality"} <= state.keys():
            best, stale, quality = (state.pop(key) for key in ("best", "stale", "quality"))
            state["selection"] = {
                "best": best and {"step": best["step"], "selection_score": best["quality"]},
                "selection_score": quality,
                "validations_since_best": stale,
            }
    return state
