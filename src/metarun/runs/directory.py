"""A run's directory: config, manifest, metrics, checkpoints, results and log."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from metarun.errors import ConfigError, MetarunError
from metarun.runs.metrics import MetricsFile
from metarun.storage import DamagedFileError, as_json, read_tensors, write_atomically, write_text

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
        """Write the config and the manifest of a new run, or of one that the same command continues.

        Raises:
            ConfigError: the directory holds a run with another config.
        """
        run = cls(directory)
        if run._path("config.yaml").exists():
            different = differing_keys(run.config(), config)
            if different:
                raise ConfigError(
                    f"{directory} holds a run that differs in {', '.join(different)}: type another "
                    f"hydra.run.dir=FOLDER, or metarun resume {directory} to continue that run"
                )
        run._write_text("config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        run.write_json("manifest.json", manifest)
        return run

    @classmethod
    def open(cls, directory: Path) -> Run:
        """Return an existing run.

        Raises:
            MetarunError: the directory is not a run's.
        """
        run = cls(directory)
        if not run._path("config.yaml").is_file():
            raise MetarunError(
                f"{directory} is not a run: expected a folder with config.yaml and checkpoints/, "
                f"such as outputs/DATE/TIME"
            )
        return run

    def config(self) -> dict[str, Any]:
        """Return the composed config as plain values.

        Raises:
            MetarunError: the file is damaged.
        """
        path = self._path("config.yaml")
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MetarunError(f"{path} is damaged: restore it from a copy") from error
        if not isinstance(config, dict):
            raise MetarunError(f"{path} holds no config: restore it from a copy")
        return config

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a file of the run atomically, for people and programs."""
        self._write_text(name, as_json(content, indent=2) + "\n")

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _write_text(self, name: str, text: str) -> None:
        write_text(self._path(name), text)

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
        except DamagedFileError as error:
            without = "start again from step 0" if which == "last" else "test the last learner instead"
            raise MetarunError(f"{error}: restore it from a copy, or delete it to {without}") from error
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
        for leftover in self.directory.glob("checkpoints/.*.pt-*"):  # of a process killed while it wrote
            leftover.unlink()
        try:
            yield
        except BaseException as error:
            # The console shows a person the one line; the run keeps where an unexpected error came from.
            expected = isinstance(error, MetarunError | KeyboardInterrupt)
            trace = None if expected else (type(error), error, error.__traceback__)
            handler.handle(log.makeRecord(log.name, logging.ERROR, __file__, 0, "%s", (error,), trace))
            raise
        finally:
            log.removeHandler(handler)
            handler.close()
            lock.release()


def differing_keys(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted keys whose values two configs do not share."""
    different = []
    for key in dict.fromkeys([*one, *other]):
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            different += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            different.append(f"{prefix}{key}")
    return different
