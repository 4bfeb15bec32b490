"""How much memory a computation needs."""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """What the computation of a `with` block adds to this process's memory at its peak.

    Attributes:
        bytes: known after the block; None where this system does not say.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.bytes: int | None = None

    def __enter__(self) -> Self:
        self._before = self._now()
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _RESET.exists():
            _RESET.write_text("5")  # Linux: forget the peak so far
        return self

    def __exit__(self, *failure: object) -> None:
        if self._before is not None:
            self.bytes = self._most() - self._before

    def _now(self) -> int | None:
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        return _status("VmRSS") if _RESET.exists() else None

    def _most(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _status("VmHWM")


def _status(key: str) -> int:
    """Return one of Linux's counts of this process's memory, in bytes."""
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(f"{key}:"))
    return 1024 * int(line.split()[1])
