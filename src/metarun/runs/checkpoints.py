"""The checkpoints of a run: the last, some before it, and the best; each whole and checked, or not used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from metarun.errors import MetarunError
from metarun.storage import DamagedFileError, UnsealedFileError, read_tensors, write_tensors

FORMAT = 2
"""Raised whenever an older metarun could not read what this one writes; `_migrate` knows the older ones."""

log = logging.getLogger("metarun")


class Checkpoints:
    """Writes and reads `last.pt`, the ones before it as `step-N.pt`, and `best.pt`.

    Each file holds tensors and plain values only, under a checksum, and appears whole or not at all.

    Args:
        folder: where they are; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._last, self._best = folder / "last.pt", folder / "best.pt"
        self._last_step: int | None = None

    def save(self, state: Mapping[str, Any], keep: int) -> None:
        """Write the last checkpoint, and keep so many of those before it.

        Args:
            state: tensors and plain values; "step" is the number of meta-steps taken.
            keep: how many older ones stay.

        Raises:
            OSError: it cannot be written; those that were there still are.
        """
        step = int(state["step"])
        waiting = self.folder / ".next.pt"
        write_tensors(waiting, {"format": FORMAT, **state})
        # Killed between the two renames, the run goes on from the one that has just been put aside.
        if keep and self._last_step not in (None, step) and self._last.exists():
            self._last.replace(self._step_file(self._last_step))
        waiting.replace(self._last)
        self._last_step = step
        for _, path in list(self._older())[keep:]:
            path.unlink()

    def save_best(self, state: Mapping[str, Any]) -> None:
        """Write the best checkpoint."""
        write_tensors(self._best, {"format": FORMAT, **state})

    def newest(self, *, set_aside: bool = False) -> dict[str, Any] | None:
        """Return the newest good checkpoint, with its tensors on the CPU, or None where there is none.

        Args:
            set_aside: rename damaged ones, so that they are not met again.

        Raises:
            MetarunError: all are damaged, or one is of a format that this version does not read.
        """
        damaged: list[DamagedFileError] = []
        candidates = [self._last] if self._last.exists() else []
        for path in [*candidates, *(path for _, path in self._older())]:
            try:
                state = self._read(path)
            except DamagedFileError as error:
                damaged.append(error)
                if set_aside:
                    path.replace(path.with_name(f"{path.name}.damaged"))
                continue
            for each in damaged:
                log.warning("%s; the one of step %d is used instead", each, state["step"])
            self._last_step = state["step"] if path == self._last else None
            return state
        if damaged:
            raise MetarunError(
                f"{damaged[0]}, and no other checkpoint is good: restore one from a copy, or delete "
                f"{self.folder} to start again from step 0"
            )
        return None

    def best(self) -> dict[str, Any] | None:
        """Return the best checkpoint, or None where none was written or it is damaged.

        Raises:
            MetarunError: it is of a format that this version does not read.
        """
        if not self._best.exists():
            return None
        try:
            return self._read(self._best)
        except DamagedFileError as error:
            log.warning("%s; the last one is used instead", error)
            return None

    def tidy(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for leftover in self.folder.glob(".*.pt*"):
            leftover.unlink()

    def _step_file(self, step: int | None) -> Path:
        return self.folder / f"step-{step}.pt"

    def _older(self) -> Iterator[tuple[int, Path]]:
        """Yield the checkpoints before the last with their steps, the newest first."""
        found = [(path.stem.removeprefix("step-"), path) for path in self.folder.glob("step-*.pt")]
        yield from sorted(((int(step), path) for step, path in found if step.isdigit()), reverse=True)

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint, of this format or migrated to it.

        Raises:
            DamagedFileError: it is damaged, or something else.
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
        return _migrate(state)


def _migrate(state: dict[str, Any]) -> dict[str, Any]:
    """Return a checkpoint of an older format as one of this."""
    if state["format"] == 1:  # before early stopping, skipped steps, and a change of device
        added = (
            {"stale": 0, "skipped": {"all": 0, "in_a_row": 0}, "device": "cpu"} if "outer" in state else {}
        )
        state = {**state, **added, "format": 2}
    return state
