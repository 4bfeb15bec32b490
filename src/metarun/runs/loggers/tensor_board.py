"""TensorBoard's event files, in the run's directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarun.errors import MetarunError
from metarun.runs.loggers.logger import Ended, Logger, RunFacts

_TYPES = bool, int, float, str


class TensorBoard(Logger):
    """Scores, rates as histograms, episodes as pictures, and the config with the test's scores as hparams.

    Args:
        folder: below the run's directory; `tensorboard --logdir outputs` finds all of them.
    """

    forgets = True

    def __init__(self, *, folder: str = "tensorboard") -> None:
        self._below = folder

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:
        """Begin an event file; TensorBoard then hides what older ones have after this step."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MetarunError("TensorBoard is not installed: pip install 'metarun[tensorboard]'") from error
        self._config = {key: v if isinstance(v, _TYPES) else str(v) for key, v in run.config.items()}
        purged = run.step + 1 if kept else None
        self._writer: Any = SummaryWriter(str(run.directory / self._below), purge_step=purged)
        return {"folder": self._below}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:
        """Log scores."""
        for name, value in scores.items():
            self._writer.add_scalar(name, value, step, time)

    def histograms(self, step: int, values: Mapping[str, NDArray[np.float32]]) -> None:
        """Log histograms."""
        for name, array in values.items():
            self._writer.add_histogram(name, array, step)

    def pictures(self, step: int, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Log pictures."""
        for name, array in pictures.items():
            self._writer.add_image(name, array, step, dataformats="HWC")

    def flush(self) -> None:
        """Write the event file to the disk."""
        self._writer.flush()

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:
        """Log the hparams of a finished run."""
        if ended == "finished":
            from torch.utils.tensorboard.summary import hparams

            # SummaryWriter.add_hparams would write them as another run.
            for summary in hparams(self._config, dict(scores)):  # type: ignore[no-untyped-call]
                self._writer.file_writer.add_summary(summary)
            for name, value in scores.items():
                self._writer.add_scalar(name, value)
        self._writer.close()
