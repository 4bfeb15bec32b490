"""A sweep's directory: its settings, and the status of each job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from metarun.config.options import check_config_dirs
from metarun.errors import ConfigError, MetarunError
from metarun.runs.changes import may_change
from metarun.runs.directory import Run
from metarun.system.files import as_json, write_text

Status = Literal["finished", "pruned", "stopped", "failed", "missing"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        number: its place in the sweep, which never changes.
        overrides: its own overrides, as `key=value`.
        directory: of its run.
        compose: returns its config as plain values, to compare with that of the run in its directory; None
            compares nothing.
    """

    number: int
    overrides: tuple[str, ...]
    directory: Path
    compose: Callable[[], Mapping[str, Any]] | None = field(default=None, compare=False, repr=False)

    @property
    def status(self) -> Status:
        """The status, read from the files in its directory."""
        run = Run(self.directory)
        try:
            if run.exists() and self.foreign():
                return "failed"
            if run.exists() and run.results():
                return "finished"
        except MetarunError:  # a damaged file: the run names it when it is resumed
            return "failed"
        if run.error():
            return "failed"
        return "stopped" if run.exists() else "missing"

    def foreign(self) -> str | None:
        """Return why the run in the directory is another one, or None if it is this job's or there is none.

        Raises:
            MetarunError: the run's config is damaged.
        """
        run = Run(self.directory)
        if self.compose is None or not run.exists():
            return None
        different = run.differing(run.with_own(self.compose(), self.overrides))
        keys = [key for key in different if not may_change(key)]
        if not keys:
            return None
        return f"{self.directory} holds a run with another config (it differs in {', '.join(keys)})"


def stop_file(directory: Path) -> Path:
    """Return the file whose existence asks all jobs of a sweep to stop, also on other machines."""
    return directory / ".stop"


class Sweep:
    """Reads and writes sweep.json: the words of the command, and the jobs that they define."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._path = directory / "sweep.json"

    def exists(self) -> bool:
        """Return whether this directory holds a sweep."""
        return self._path.is_file()

    def begin(self, kind: Literal["grid", "search"]) -> None:
        """Begin a sweep of this kind, or check that the existing one has this kind.

        Raises:
            ConfigError: the existing sweep has the other kind, or the directory holds a run.
        """
        if not self.exists():
            if Run(self.directory).exists():
                raise ConfigError(f"{self.directory} holds a run: type another hydra.sweep.dir=FOLDER")
            write_text(
                self._path, as_json({"kind": kind, "words": [], "config_dirs": [], "jobs": [], "more": []})
            )
        elif self._content()["kind"] != kind:
            raise ConfigError(
                f"{self.directory} holds a sweep of another kind ({self._content()['kind']}): type another "
                f"hydra.sweep.dir=FOLDER"
            )

    def write(self, **content: Sequence[Any]) -> None:
        """Update the keys of sweep.json that are passed; the others stay.

        Args:
            content: `words`, as typed; `config_dirs`, a user's own; `jobs`, the overrides of each job, by
                number; `more`, the overrides added to all jobs on resume.
        """
        write_text(self._path, as_json({**self._content(), **content}, indent=2) + "\n")

    @property
    def words(self) -> list[str]:
        """The words of the sweep's command, as typed."""
        return [str(word) for word in self._content()["words"]]

    @property
    def config_dirs(self) -> list[str]:
        """The user's own folders of groups and options."""
        return [str(folder) for folder in self._content()["config_dirs"]]

    def all_config_dirs(self, typed: Sequence[str]) -> list[str]:
        """Return the folders of groups of all earlier commands of this sweep, and those typed now.

        Raises:
            ConfigError: an earlier folder is gone, and no folder is typed now.
        """
        kept = self.config_dirs if self.exists() else []
        if not typed:
            check_config_dirs(
                kept,
                f", and the sweep {self.directory} began with it: type --config-dir FOLDER to say where",
            )
        existing = [folder for folder in kept if "://" in folder or Path(folder).is_dir()]
        absolute = [folder if "://" in folder else str(Path(folder).absolute()) for folder in typed]
        return list(dict.fromkeys([*existing, *absolute]))

    @property
    def jobs(self) -> list[tuple[str, ...]]:
        """The overrides of every job."""
        return [tuple(job) for job in self._content()["jobs"]]

    @property
    def more(self) -> list[str]:
        """The overrides added to all jobs when the sweep was resumed, of keys that may change."""
        return [str(word) for word in self._content()["more"]]

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["kind"] in ("grid", "search") and all(
                isinstance(content[key], list) for key in ("words", "config_dirs", "jobs", "more")
            ):
                return dict(content)
        except (ValueError, LookupError, TypeError):
            pass
        raise MetarunError(f"{self._path} is damaged: restore it from a copy")
