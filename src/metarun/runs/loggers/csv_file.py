"""Scores as a table: metrics.csv in the run's directory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from typing import Any

from metarun.runs.loggers.logger import Ended, Logger, RunFacts
from metarun.system.files import write_text


class CSVFile(Logger):
    """One line for each of metrics.jsonl, and a column for each of its names, written at every checkpoint."""

    forgets = True

    def open(self, run: RunFacts, kept: Mapping[str, Any]) -> Mapping[str, Any]:  # noqa: ARG002
        """Write what the run has so far."""
        self._folder = run.directory
        self.flush()
        return {}

    def scores(self, step: int, scores: Mapping[str, float], time: float) -> None:
        """Nothing: they are in metrics.jsonl."""

    def flush(self) -> None:
        """Write the table anew."""
        source = self._folder / "metrics.jsonl"
        lines = source.read_text(encoding="utf-8").splitlines() if source.exists() else []
        records = [json.loads(line) for line in lines if line.endswith("}")]
        names = list(dict.fromkeys(name for record in records for name in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        write_text(self._folder / "metrics.csv", text.getvalue())

    def close(self, ended: Ended, scores: Mapping[str, float]) -> None:  # noqa: ARG002
        """Write the last lines."""
        self.flush()
