"""metrics.jsonl: one JSON object per line; no line is incomplete or doubled."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metarun.errors import MetarunError
from metarun.system.files import as_json, naming

log = logging.getLogger("metarun")


class MetricsFile:
    """Appends records; a checkpoint stores the file position, from which a resumed run continues."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Add one line, with the time, and return it and the length of the file in bytes."""
        line = {**record, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(as_json(line) + "\n")
            file.flush()
            return line, file.tell()

    def position(self) -> int:
        """Flush the file to the disk and return its length in bytes."""
        if not self.path.exists():
            return 0
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def truncate(self, position: int) -> None:
        """Remove the lines after a position: the steps after a checkpoint are computed again.

        If the file is shorter than the position, warn and keep its complete lines.
        """
        length = self.position()
        if length > position:
            os.truncate(self.path, position)
        elif length < position:
            log.warning("%s has lost %d bytes since the last checkpoint", self.path, position - length)
            if length:
                os.truncate(self.path, self.path.read_bytes().rfind(b"\n") + 1)

    def records(self) -> list[dict[str, Any]]:
        """Return all lines.

        Raises:
            MetarunError: the file is damaged.
        """
        if not self.path.exists():
            return []
        try:
            return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        except ValueError as error:
            raise MetarunError(f"{self.path} is damaged: restore it from a copy") from error
