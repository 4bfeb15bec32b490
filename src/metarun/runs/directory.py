"""A run's directory: config, manifest, metrics, checkpoints, results and log."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from metarun.errors import MetarunError
from metarun.runs.metrics import MetricsFile
from metarun.storage import read_tensors, replace, write_atomically

# Raised whenever an older metarun could not read what this one writes.
CHECKPOINT_FORMAT = 1

log = logging.getLogger("metarun")


class Run:
    """One training with its directory; knows nothing of meta-learning."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.metrics = MetricsFile(directory / "metrics.jsonl")

    @classmethod
    def create(cls, directory: Path, config: Mapping[str, Any], manifest: Mapping[str, Any]) -> Run:
        """Write the config and the manifest of a new run."""
        run = cls(directory)
        run._write_text("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        run.write_json("manifest.json", manifest)
        return run

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Return an existing run.

        Raises:
            MetarunError: the directory is not a run's.
        """
        if not (directory / "config.yaml").is_file():
            raise MetarunError(
                f"{directory} is not a run: expected a folder with config.yaml and checkpoints/, "
                f"such as outputs/DATE/TIME"
            )
        return cls(directory)

    def config(self) -> dict[str, Any]:
        """Return the composed config as plain values."""
        config: dict[str, Any] = yaml.safe_load((self.directory / "config.yaml").read_text(encoding="utf-8"))
        return config

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of the run atomically, for people and programs."""
        self._write_text(name, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def _write_text(self, name: str, text: str) -> None:
        replace(self.directory / name, lambda file: file.write(text.encode()))

    def _checkpoint(self, which: str) -> Path:
        return self.directory / "checkpoints" / f"{which}.pt"

    def save(self, which: Literal["last", "best"], state: Mapping[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values, atomically."""
        write_atomically(self._checkpoint(which), {"format": CHECKPOINT_FORMAT, **state})

    def load(self, which: Literal["last", "best"]) -> dict[str, Any] | None:
        """Return a checkpoint with its tensors on the CPU, or None where none was written.

        Raises:
            MetarunError: it is damaged, or of another format.
        """
        path = self._checkpoint(which)
        if not path.exists():
            return None
        try:
            state = read_tensors(path)
        except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise MetarunError(
                f"{path} cannot be read ({reason}): delete it to go on without it, or restore it from a copy"
            ) from error
        if state.get("format") != CHECKPOINT_FORMAT:
            raise MetarunError(
                f"{path} has checkpoint format {state.get('format')}, this metarun reads "
                f"{CHECKPOINT_FORMAT}: use the version in {self.directory / 'manifest.json'}"
            )
        return state

    @contextmanager
    def occupied(self) -> Iterator[None]:
        """Hold the run for this process, and copy the log into its directory meanwhile.

        Raises:
            MetarunError: another process holds it.
        """
        lock = FileLock(self.directory / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise MetarunError(
                f"{self.directory} is in use by another process: wait for it, or stop it"
            ) from error
        handler = logging.FileHandler(self.directory / "metarun.log", encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)
            handler.close()
            lock.release()
