"""What a logger is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ended = Literal["finished", "interrupted", "failed"]


@dataclass(frozen=True)
class RunFacts:
    """What a logger knows of a run.

    Attributes:
        directory: of the run.
        config: by dotted key.
        step: meta-step from which it begins, or continues.
    """

    directory: Path
    config: Mapping[str, Any]
    step: int

    @property
    def name(self) -> str:
        """The last two folders of its directory, as in 2026-11-27/14-05-31-0c1a2b."""
        return "/".join(self.directory.resolve().parts[-2:])

    @property
    def plain_config(self) -> dict[str, bool | int | float | str]:
        """The config with texts in the place of lists and null."""
        return {
            key: value if isinstance(value, bool | int | float | str) else str(value)
            for key, value in self.config.items()
        }


class Logger(ABC):
    """Follows a run. All methods are called in one thread, which is not that of the training.

    Whatever a method raises ends this logger, with one warning, and not the run.

    Attributes:
        forgets: whether `open` removes what was logged after the step that the run continues from; else such
            scores, which come again with the same values, are not handed over twice.
    """

    forgets = False

    @abstractmethod
    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin, or go on.

        Args:
            run: the run.
            kept: what an earlier call has returned for this run; empty: it begins.

        Returns:
            Plain values that the run's loggers.json keeps.
        """

    @abstractmethod
    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:
        """Log scores by name, as in validation/accuracy; time in seconds since 1970."""

    # Not every library has these three.

    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:  # noqa: B027
        """Log the distribution of some values, by name."""

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:  # noqa: B027
        """Log pictures [height, width, 3], by name."""

    def flush(self) -> None:  # noqa: B027
        """Write what is still in memory: the run has a checkpoint."""

    @abstractmethod
    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """End; with the scores of the test, where there was one."""
